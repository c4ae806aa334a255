// SPDX-License-Identifier: Apache-2.0
//
// The plugin's door: names the passes for opt, prints refusals, and holds the pass that turns the module to x86-64.
#include <cstdlib>

#include "llview.h"
#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Passes/PassPlugin.h"
#include "llvm/Support/raw_ostream.h"

using namespace llvm;

namespace llview {

void Refusals::add(const Twine &Where, const Twine &Why) {
  errs() << Where << ": error: " << Why << "\n";
  Count++;
}

void Refusals::add(const Function &In, const Twine &Why) {
  const DISubprogram *Program = In.getSubprogram();
  std::string Where = In.getName().str();
  if (Program)
    Where = (Program->getFilename() + ":" + Twine(Program->getLine())).str();
  add(Where, "in view '" + In.getName() + "': " + Why);
}

void Refusals::add(const Instruction &At, const Twine &Why) {
  const Function &In = *At.getFunction();
  const DebugLoc &Location = At.getDebugLoc();
  if (!Location)
    return add(In, Why);
  add(Location->getFilename() + ":" + Twine(Location.getLine()) + ":" + Twine(Location.getCol()),
      "in view '" + In.getName() + "': " + Why);
}

void Refusals::exitIfAny() const {
  if (Count == 0)
    return;
  errs() << "llview: " << Count << " refused\n";
  std::exit(1);
}

namespace {

// bpf and x86-64 lay out fixed-width members alike, so only the labels change. The bpf processor's name must go, or llc
// would look for an x86-64 one called "v4".
struct TargetPass : PassInfoMixin<TargetPass> {
  PreservedAnalyses run(Module &M, ModuleAnalysisManager &) {
    M.setTargetTriple("x86_64-pc-linux-gnu");
    M.setDataLayout("e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128");
    for (Function &F : M)
      for (const char *Name : {"target-cpu", "target-features", "tune-cpu", "frame-pointer"})
        F.removeFnAttr(Name);
    return PreservedAnalyses::none();
  }
  static bool isRequired() { return true; }
};

bool parse(StringRef Name, ModulePassManager &Passes, ArrayRef<PassBuilder::PipelineElement>) {
  if (Name == "llview")
    Passes.addPass(LowerPass());
  else if (Name == "llview-verify")
    Passes.addPass(VerifyPass());
  else if (Name == "llview-target")
    Passes.addPass(TargetPass());
  else
    return false;
  return true;
}

} // namespace
} // namespace llview

extern "C" LLVM_ATTRIBUTE_WEAK PassPluginLibraryInfo llvmGetPassPluginInfo() {
  return {LLVM_PLUGIN_API_VERSION, "LLView", "1",
          [](PassBuilder &Builder) { Builder.registerPipelineParsingCallback(llview::parse); }};
}
