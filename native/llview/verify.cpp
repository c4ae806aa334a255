// SPDX-License-Identifier: Apache-2.0
//
// Refuses views that could touch host memory at a guest's will. It trusts nothing of the lowering: it looks at what is
// there. After it, a view's only ways to memory are
//   - the runtime's functions, for the guest's memory;
//   - host pointers made from the function's own variables, its arguments and constants, moved by constants or by an
//     index that ciel_rt_bounded() has checked against a bound that no guest can choose.
// Host pointers can be neither loaded nor made from integers, so no value of the guest becomes one. And a view ends: no
// recursion, and no cycle without ciel_rt_burn().
#include <set>

#include "llview.h"
#include "llvm/ADT/SCCIterator.h"
#include "llvm/Analysis/CallGraph.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/Operator.h"

using namespace llvm;

namespace llview {
namespace {

constexpr uint64_t LargestFrame = 64 * 1024;

bool isHostPointer(const Type *T) { return T->isPointerTy() && T->getPointerAddressSpace() == 0; }

bool holdsHostPointer(const Type *T) {
  if (isHostPointer(T))
    return true;
  return any_of(T->subtypes(), [](const Type *Part) { return holdsHostPointer(Part); });
}

class Verifier {
public:
  Verifier(Module &M, Refusals &R) : M(M), R(R) {}

  void run() {
    for (const GlobalVariable &Global : M.globals())
      if (!Global.isConstant())
        R.add(Global.getName(), "a view has no variables of its own that outlive it");
    for (Function &F : M)
      if (!F.isDeclaration())
        checkFunction(F);
    checkRecursion();
  }

private:
  Module &M;
  Refusals &R;
  std::set<std::pair<const Function *, unsigned>> Trusting; // bounds that are being followed to the callers

  // --- functions -----------------------------------------------------------------------------------------------------

  void checkFunction(Function &F) {
    if (F.isVarArg())
      R.add(F, "a variable number of arguments");
    for (const User *U : F.users()) {
      auto *Call = dyn_cast<CallBase>(U);
      if (!Call || Call->getCalledOperand() != &F)
        R.add(F, "its address is taken: a view can only be called by name");
    }
    if (!F.hasLocalLinkage())
      checkEntryPoint(F);
    uint64_t Frame = 0;
    for (Instruction &I : instructions(F)) {
      for (const Use &Operand : I.operands())
        if (auto *Expression = dyn_cast<ConstantExpr>(Operand))
          checkExpression(I, *Expression);
      if (auto *Alloca = dyn_cast<AllocaInst>(&I)) {
        auto Size = Alloca->getAllocationSize(M.getDataLayout());
        if (!Alloca->isStaticAlloca() || !Size)
          R.add(I, "a variable whose size is only known when the view runs");
        else
          Frame += *Size;
      }
      checkInstruction(I);
    }
    if (Frame > LargestFrame)
      R.add(F, "its variables take " + Twine(Frame) + " bytes of stack, more than " + Twine(LargestFrame));
    checkCycles(F);
  }

  // The mapper, compiled by another compiler for another target's conventions, calls these.
  void checkEntryPoint(Function &F) {
    auto IsPlain = [](const Type *T) { return isHostPointer(T) || T->isIntegerTy(32) || T->isIntegerTy(64); };
    if (!F.getReturnType()->isIntegerTy(32))
      R.add(F, "a view that the mapper calls returns int; make others static");
    for (const Argument &A : F.args())
      if (!IsPlain(A.getType()) || A.hasByValAttr() || A.hasStructRetAttr())
        R.add(F, "a view that the mapper calls takes host pointers and 32 or 64 bit integers only");
  }

  void checkRecursion() {
    CallGraph Graph(M);
    for (auto At = scc_begin(&Graph); !At.isAtEnd(); ++At)
      if (At.hasCycle())
        for (const CallGraphNode *Node : *At)
          if (Node->getFunction() && !Node->getFunction()->isDeclaration())
            R.add(*Node->getFunction(), "recursion");
  }

  // Without the blocks that burn fuel, the graph must be a tree's: no way back.
  void checkCycles(Function &F) {
    std::set<const BasicBlock *> Open, Done;
    auto Burns = [](const BasicBlock &Block) {
      return any_of(Block, [](const Instruction &I) { return calls(I, runtime::Burn); });
    };
    auto Visit = [&](auto &&Self, const BasicBlock *Block) -> void {
      if (Done.count(Block) || Burns(*Block))
        return;
      if (!Open.insert(Block).second)
        return R.add(*Block->getTerminator(), "a loop that burns no fuel");
      for (const BasicBlock *Next : successors(Block))
        Self(Self, Next);
      Open.erase(Block);
      Done.insert(Block);
    };
    for (const BasicBlock &Block : F)
      Visit(Visit, &Block);
  }

  // --- instructions --------------------------------------------------------------------------------------------------

  static bool calls(const Instruction &I, StringRef Name) {
    auto *Call = dyn_cast<CallInst>(&I);
    return Call && Call->getCalledFunction() && Call->getCalledFunction()->getName() == Name;
  }

  void checkExpression(const Instruction &At, const ConstantExpr &Expression) {
    switch (Expression.getOpcode()) {
    case Instruction::AddrSpaceCast:
      return R.add(At, "a pointer cast between host and guest");
    case Instruction::IntToPtr:
      if (isHostPointer(Expression.getType()))
        return R.add(At, "a host pointer made from an integer");
      break;
    case Instruction::PtrToInt:
      if (isHostPointer(Expression.getOperand(0)->getType()))
        return R.add(At, "a host address used as an integer");
      break;
    default:
      break;
    }
    for (const Use &Operand : Expression.operands())
      if (auto *Inner = dyn_cast<ConstantExpr>(Operand))
        checkExpression(At, *Inner);
  }

  void checkInstruction(Instruction &I) {
    if (I.isAtomic())
      return R.add(I, "an atomic operation or fence");
    switch (I.getOpcode()) {
    case Instruction::Load:
      return checkLoad(cast<LoadInst>(I));
    case Instruction::Store:
      return checkStore(cast<StoreInst>(I));
    case Instruction::AddrSpaceCast:
      return R.add(I, "a pointer cast between host and guest");
    case Instruction::IntToPtr:
      if (holdsHostPointer(I.getType()))
        R.add(I, "a host pointer made from an integer");
      return;
    case Instruction::PtrToInt:
      if (holdsHostPointer(I.getOperand(0)->getType()))
        R.add(I, "a host address used as an integer");
      return;
    case Instruction::GetElementPtr:
      return checkArithmetic(cast<GetElementPtrInst>(I));
    case Instruction::UDiv:
    case Instruction::URem:
      if (!isNonZero(I.getOperand(1)))
        R.add(I, "a division by what may be 0: use divisor()");
      return;
    case Instruction::SDiv:
    case Instruction::SRem: {
      auto *Divisor = dyn_cast<ConstantInt>(I.getOperand(1));
      if (!Divisor || Divisor->isZero() || Divisor->isMinusOne())
        R.add(I, "a signed division by what is no constant");
      return;
    }
    case Instruction::Unreachable:
      return R.add(I, "a promise to the compiler that some code is never reached");
    case Instruction::IndirectBr:
    case Instruction::Invoke:
    case Instruction::CallBr:
    case Instruction::VAArg:
      return R.add(I, "an instruction that views have no use for");
    case Instruction::Call:
      return checkCall(cast<CallInst>(I));
    default:
      return;
    }
  }

  void checkLoad(const LoadInst &Load) {
    if (Load.getPointerAddressSpace() != 0)
      return R.add(Load, "a raw load through a guest pointer is left over");
    if (holdsHostPointer(Load.getType()))
      R.add(Load, "a host pointer kept in memory: pass it as an argument");
  }

  void checkStore(const StoreInst &Store) {
    if (Store.getPointerAddressSpace() != 0)
      return R.add(Store, "a store through a guest pointer");
    if (holdsHostPointer(Store.getValueOperand()->getType()))
      R.add(Store, "a host pointer kept in memory: pass it as an argument");
  }

  static bool isNonZero(const Value *V) {
    if (auto *Number = dyn_cast<ConstantInt>(V))
      return !Number->isZero();
    if (auto *Wider = dyn_cast<ZExtInst>(V))
      V = Wider->getOperand(0);
    auto *Call = dyn_cast<CallInst>(V);
    return Call && calls(*Call, runtime::Divisor);
  }

  // --- host pointers -------------------------------------------------------------------------------------------------

  void checkArithmetic(const GetElementPtrInst &Gep) {
    if (!isHostPointer(Gep.getType())) {
      if (holdsHostPointer(Gep.getType()))
        R.add(Gep, "a vector of pointers");
      return;
    }
    Type *Element = Gep.getSourceElementType();
    for (unsigned Operand = 1; Operand < Gep.getNumOperands(); Operand++) {
      const Value *Index = Gep.getOperand(Operand);
      auto *Fixed = dyn_cast<ConstantInt>(Index);
      if (Operand == 1) { // over what the pointer points to
        if (!Fixed)
          checkIndex(Gep, Index, nullptr);
        continue;
      }
      if (auto *Array = dyn_cast<ArrayType>(Element)) {
        if (!Fixed)
          checkIndex(Gep, Index, Array);
        else if (Fixed->getValue().uge(Array->getNumElements()))
          R.add(Gep, "a constant index outside of its host array");
        Element = Array->getElementType();
      } else {
        Element = cast<StructType>(Element)->getElementType(cast<ConstantInt>(Index)->getZExtValue());
      }
    }
  }

  void checkIndex(const GetElementPtrInst &Gep, const Value *Index, const ArrayType *Array) {
    auto *Call = dyn_cast<CallInst>(Index);
    if (!Call || !calls(*Call, runtime::Bounded))
      return R.add(Gep, "a host array indexed by what nothing has bounded: use host_at() or host_slice()");
    const Value *Bound = Call->getArgOperand(1);
    if (Array) {
      auto *Fixed = dyn_cast<ConstantInt>(Bound);
      if (!Fixed || Fixed->getValue().ugt(Array->getNumElements()))
        R.add(Gep, "the bound of this index is larger than the host array");
    } else if (!isa<Argument>(Gep.getPointerOperand()) || !isHostsWord(Bound)) {
      R.add(Gep, "host_slice() takes an array and its capacity as the mapper passed them");
    }
  }

  // Whether a number comes from the mapper unchanged: an argument, at every call of its function too.
  bool isHostsWord(const Value *V) {
    if (auto *Wider = dyn_cast<ZExtInst>(V))
      V = Wider->getOperand(0);
    if (isa<ConstantInt>(V))
      return true;
    auto *A = dyn_cast<Argument>(V);
    if (!A)
      return false;
    const Function *F = A->getParent();
    if (!Trusting.insert({F, A->getArgNo()}).second)
      return true;
    return all_of(F->users(), [&](const User *U) {
      auto *Call = dyn_cast<CallBase>(U);
      return Call && isHostsWord(Call->getArgOperand(A->getArgNo()));
    });
  }

  // --- calls ---------------------------------------------------------------------------------------------------------

  void checkCall(const CallInst &Call) {
    if (Call.isInlineAsm())
      return R.add(Call, "inline assembly");
    const Function *Callee = Call.getCalledFunction();
    if (!Callee)
      return R.add(Call, "an indirect call");
    if (auto *Intrinsic = dyn_cast<IntrinsicInst>(&Call))
      return checkIntrinsic(*Intrinsic);
    if (!Callee->isDeclaration() || Callee->getName() == marker::Refresh)
      return;
    if (!Callee->getName().starts_with(runtime::Prefix))
      return R.add(Call, "a call of '" + Callee->getName() + "', which is neither a view nor part of the runtime");
    if (Callee->getName() == runtime::String)
      checkString(Call);
  }

  void checkIntrinsic(const IntrinsicInst &Call) {
    switch (Call.getIntrinsicID()) {
    case Intrinsic::dbg_assign:
    case Intrinsic::dbg_declare:
    case Intrinsic::dbg_label:
    case Intrinsic::dbg_value:
    case Intrinsic::lifetime_start:
    case Intrinsic::lifetime_end:
    case Intrinsic::expect:
    case Intrinsic::umin:
    case Intrinsic::umax:
    case Intrinsic::smin:
    case Intrinsic::smax:
    case Intrinsic::bswap:
    case Intrinsic::ctpop:
    case Intrinsic::ctlz:
    case Intrinsic::cttz:
      return;
    // Host structs that are cleared or copied: only whole, by constants.
    case Intrinsic::memset:
    case Intrinsic::memcpy: {
      auto &Memory = cast<MemIntrinsic>(Call);
      auto *Transfer = dyn_cast<MemTransferInst>(&Call);
      if (Memory.getDestAddressSpace() != 0 || (Transfer && Transfer->getSourceAddressSpace() != 0))
        R.add(Call, "a guest record copied as a whole: read its fields");
      else if (!isa<ConstantInt>(Memory.getLength()))
        R.add(Call, "a block of memory whose size is only known when the view runs");
      return;
    }
    case Intrinsic::memmove:
      return R.add(Call, "a memory intrinsic");
    case Intrinsic::trap:
    case Intrinsic::assume:
      return R.add(Call, "a promise to the compiler, or a trap");
    default:
      return R.add(Call, "the intrinsic '" + Call.getCalledFunction()->getName() + "', which views have no use for");
    }
  }

  // g_string(array, capacity, address): the array is a host array of at least that capacity.
  void checkString(const CallInst &Call) {
    const Type *Array = nullptr;
    if (auto *Gep = dyn_cast<GEPOperator>(Call.getArgOperand(0)))
      if (Gep->hasAllZeroIndices() && Gep->getNumIndices() == 2)
        Array = Gep->getSourceElementType();
    auto *Capacity = dyn_cast<ConstantInt>(Call.getArgOperand(1));
    if (!Array || !Array->isArrayTy() || !Array->getArrayElementType()->isIntegerTy(8) || !Capacity ||
        Capacity->getValue().ugt(Array->getArrayNumElements()))
      R.add(Call, "a string is read into a whole host array: use guest_string()");
  }
};

} // namespace

PreservedAnalyses VerifyPass::run(Module &M, ModuleAnalysisManager &) {
  Refusals R;
  Verifier(M, R).run();
  R.exitIfAny();
  return PreservedAnalyses::all();
}

} // namespace llview
