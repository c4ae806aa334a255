// SPDX-License-Identifier: Apache-2.0
//
// LLView compiles views: kernel-style C that reads the memory of a guest from outside (native/mapper/view-runtime.h has
// the contract). clang has compiled the views for the bpf target, so each access to a guest's record is still a CO-RE
// intrinsic. Three passes, run in this order by views.mk:
//
//   llview         lowers: access paths become slots, loads become checked calls, loops burn fuel      (lower.cpp)
//   llview-verify  fails the build on whatever could still touch host memory at a guest's will        (verify.cpp)
//   llview-target  turns the module from bpf to x86-64                                                (plugin.cpp)
//
// What the lowered code calls is plain C in runtime.c, linked in afterwards and inlined. Its functions are named here, so
// that both passes agree on them.
#ifndef LLVIEW_H
#define LLVIEW_H

#include <string>

#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/PassManager.h"

namespace llview {

// Guest pointers; `__attribute__((address_space(1)))` in the views.
constexpr unsigned GuestAddressSpace = 1;

// What a view may call by name (declared in views/guest.h) ...
namespace marker {
constexpr const char *Symbol = "ciel_symbol";
constexpr const char *SymbolExists = "ciel_symbol_exists";
constexpr const char *Bounded = "ciel_bounded";
constexpr const char *Divisor = "ciel_divisor";
constexpr const char *Fail = "ciel_fail";
constexpr const char *Try = "ciel_try";
constexpr const char *FailedSlot = "ciel_failed_slot";
constexpr const char *Note = "ciel_note";
constexpr const char *Noted = "ciel_noted";
constexpr const char *Spoil = "ciel_spoil";
constexpr const char *String = "g_string";
constexpr const char *Refresh = "g_refresh";
} // namespace marker

// ... and what only the lowered code may call (runtime.c).
namespace runtime {
constexpr const char *Prefix = "ciel_rt_";
constexpr const char *Enter = "ciel_rt_enter";
constexpr const char *Error = "ciel_rt_error";
constexpr const char *Tolerate = "ciel_rt_tolerate";
constexpr const char *Fail = "ciel_rt_fail";
constexpr const char *Burn = "ciel_rt_burn";
constexpr const char *Value = "ciel_rt_value";
constexpr const char *Fact = "ciel_rt_fact";
constexpr const char *Sized = "ciel_rt_sized";
constexpr const char *Load = "ciel_rt_load";
constexpr const char *Read = "ciel_rt_read";
constexpr const char *String = "ciel_rt_string";
constexpr const char *Bounded = "ciel_rt_bounded";
constexpr const char *Divisor = "ciel_rt_divisor";
constexpr const char *FailedSlot = "ciel_rt_failed_slot";
constexpr const char *Note = "ciel_rt_note";
constexpr const char *Noted = "ciel_rt_noted";
constexpr const char *Spoil = "ciel_rt_spoil";
} // namespace runtime

// Collects refusals, so that one build names all of them, then ends the build.
class Refusals {
public:
  void add(const llvm::Instruction &At, const llvm::Twine &Why);
  void add(const llvm::Function &In, const llvm::Twine &Why);
  void add(const llvm::Twine &Where, const llvm::Twine &Why);
  void exitIfAny() const;

private:
  unsigned Count = 0;
};

struct LowerPass : llvm::PassInfoMixin<LowerPass> {
  llvm::PreservedAnalyses run(llvm::Module &, llvm::ModuleAnalysisManager &);
  static bool isRequired() { return true; }
};

struct VerifyPass : llvm::PassInfoMixin<VerifyPass> {
  llvm::PreservedAnalyses run(llvm::Module &, llvm::ModuleAnalysisManager &);
  static bool isRequired() { return true; }
};

} // namespace llview

#endif
