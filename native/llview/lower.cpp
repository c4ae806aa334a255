// SPDX-License-Identifier: Apache-2.0
//
// Lowers views. In:
//
//   %a = call ptr addrspace(1) @llvm.preserve.struct.access.index(%cgroup, …), !llvm.preserve.access.index !cgroup
//   %b = call ptr addrspace(1) @llvm.preserve.struct.access.index(%a, …)                              ; .bstat.ntime
//   %v = load i64, ptr addrspace(1) %b
//
// Out: a slot {FIELD_OFFSET, "cgroup", "bstat.ntime"}, and
//
//   %ok = call i32 @ciel_rt_load(i64 %cgroup, i32 <slot>, i32 8, ptr %value)
//   br (%ok != 0), continue, leave
//
// `leave` is the function's one exit on failure. It is reached as well when a callee failed, when a loop's fuel is gone
// and when a slot is unavailable. Unlike a zero result, it ends a walk that the guest has bent into a circle.
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "llview.h"
#include "llvm/ADT/PostOrderIterator.h"
#include "llvm/Analysis/CFG.h"
#include "llvm/BinaryFormat/Dwarf.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/IntrinsicsBPF.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/PatternMatch.h"
#include "llvm/IR/ValueHandle.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"

extern "C" {
#include "view-runtime.h"
}

using namespace llvm;

namespace llview {
namespace {

// The slots of all views: one for each different question.
class Slots {
public:
  uint32_t number(ciel_slot_kind Kind, StringRef Record, StringRef Path) {
    auto [At, IsNew] = Numbers.try_emplace({Kind, Record.str(), Path.str()}, Ordered.size());
    if (IsNew)
      Ordered.push_back(&At->first);
    return At->second;
  }

  // Emits ciel_view_slots[] and ciel_view_slot_count.
  void emit(Module &M) const {
    LLVMContext &C = M.getContext();
    IRBuilder<> B(C);
    auto *Pointer = PointerType::get(C, 0);
    auto *Desc = StructType::get(C, {B.getInt32Ty(), Pointer, Pointer});
    std::vector<Constant *> Rows;
    for (const Key *Slot : Ordered) {
      auto &[Kind, Record, Path] = *Slot;
      Rows.push_back(ConstantStruct::get(Desc, {B.getInt32(Kind), text(M, Record), text(M, Path)}));
    }
    auto *Table = ArrayType::get(Desc, Rows.size());
    new GlobalVariable(M, Table, true, GlobalValue::ExternalLinkage, ConstantArray::get(Table, Rows), "ciel_view_slots");
    new GlobalVariable(M, B.getInt32Ty(), true, GlobalValue::ExternalLinkage, B.getInt32(Rows.size()),
                       "ciel_view_slot_count");
  }

private:
  using Key = std::tuple<ciel_slot_kind, std::string, std::string>;
  std::map<Key, uint32_t> Numbers;
  std::vector<const Key *> Ordered;

  static Constant *text(Module &M, StringRef Text) {
    Constant *Bytes = ConstantDataArray::getString(M.getContext(), Text);
    auto *Global = new GlobalVariable(M, Bytes->getType(), true, GlobalValue::PrivateLinkage, Bytes, "slot.text");
    Global->setUnnamedAddr(GlobalValue::UnnamedAddr::Global);
    return Global;
  }
};

// A place in a guest record, as a view spells it: base->path, with the array indexes that are known only when it runs.
struct Access {
  WeakTrackingVH Base; // these follow when a load is replaced by its lowered form
  std::string Record;
  std::string Path;
  struct Index {
    WeakTrackingVH Number;
    std::string Array; // the path of the array that is indexed
  };
  SmallVector<Index, 2> Indexes;
  const DIType *Type = nullptr; // of the place
  unsigned Dimension = 0;       // when Type is an array: how many of its dimensions are indexed already
};

const DIType *strip(const DIType *Type) {
  while (auto *Derived = dyn_cast_or_null<DIDerivedType>(Type)) {
    unsigned Tag = Derived->getTag();
    if (Tag != dwarf::DW_TAG_typedef && Tag != dwarf::DW_TAG_const_type && Tag != dwarf::DW_TAG_volatile_type)
      break;
    Type = Derived->getBaseType();
  }
  return Type;
}

// As in libbpf: "mem_cgroup___embedded" describes another layout of the guest's mem_cgroup, "___css_flags" a nameless
// enum.
std::string withoutFlavour(StringRef Name) { return Name.substr(0, Name.find("___")).str(); }

constexpr const char *RecordArithmetic =
    "pointer arithmetic over guest records, whose size this build does not know: use guest_element()";

bool isGuestPointer(const Type *T) { return T->isPointerTy() && T->getPointerAddressSpace() == GuestAddressSpace; }

class ViewLowering {
public:
  ViewLowering(Function &F, Slots &S, Refusals &R) : F(F), M(*F.getParent()), C(F.getContext()), S(S), R(R) {}

  void run() {
    EliminateUnreachableBlocks(F);
    harden();
    burnOnBackEdges();
    std::vector<Instruction *> Before; // definitions before uses
    for (BasicBlock *Block : ReversePostOrderTraversal<Function *>(&F))
      for (Instruction &I : *Block)
        Before.push_back(&I);
    for (Instruction *I : Before)
      lower(*I);
    for (Instruction *I : reverse(Before))
      if (Dead.count(I) && I->use_empty())
        I->eraseFromParent();
    if (!F.hasLocalLinkage()) {
      IRBuilder<> B(&*F.getEntryBlock().getFirstNonPHIOrDbgOrAlloca());
      B.CreateCall(runtimeFunction(runtime::Enter, B.getVoidTy(), {}));
    }
  }

private:
  Function &F;
  Module &M;
  LLVMContext &C;
  Slots &S;
  Refusals &R;
  std::map<Value *, std::optional<Access>> Known;
  std::map<Value *, Value *> Addresses; // of places that are used for more than a load
  SmallPtrSet<Instruction *, 32> Dead;
  BasicBlock *LeaveBlock = nullptr;
  AllocaInst *ValueCell = nullptr;

  FunctionCallee runtimeFunction(const char *Name, Type *Result, ArrayRef<Type *> Parameters) {
    return M.getOrInsertFunction(Name, FunctionType::get(Result, Parameters, false));
  }

  // --- undefined behaviour -------------------------------------------------------------------------------------------

  // What the optimiser may assume of a guest's values is nothing: no flag or metadata may promise it a range, and a shift
  // stays defined whatever its amount. (Signed overflow is defined by -fwrapv, uninitialised variables are zeroed by
  // -ftrivial-auto-var-init.)
  void harden() {
    for (Instruction &I : instructions(F)) {
      I.dropPoisonGeneratingFlags();
      I.dropPoisonGeneratingMetadata();
      if (I.isShift() && !isa<Constant>(I.getOperand(1))) {
        IRBuilder<> B(&I);
        unsigned Width = I.getType()->getIntegerBitWidth();
        I.setOperand(1, B.CreateAnd(I.getOperand(1), ConstantInt::get(I.getType(), Width - 1)));
      }
    }
  }

  // --- leaving -------------------------------------------------------------------------------------------------------

  BasicBlock *leaveBlock() {
    if (LeaveBlock)
      return LeaveBlock;
    LeaveBlock = BasicBlock::Create(C, "leave", &F);
    IRBuilder<> B(LeaveBlock);
    Type *Result = F.getReturnType();
    if (Result->isVoidTy())
      B.CreateRetVoid();
    else if (Result->isIntegerTy(32))
      B.CreateRet(B.CreateCall(runtimeFunction(runtime::Error, B.getInt32Ty(), {})));
    else
      B.CreateRet(Constant::getNullValue(Result));
    return LeaveBlock;
  }

  // Goes on before `Next` only when `Ok` is not 0.
  void leaveUnless(Value *Ok, Instruction *Next) {
    IRBuilder<> B(Next);
    B.SetCurrentDebugLocation(Next->getDebugLoc());
    Value *Condition = B.CreateICmpNE(Ok, Constant::getNullValue(Ok->getType()));
    BasicBlock *Head = Next->getParent();
    BasicBlock *Tail = Head->splitBasicBlock(Next->getIterator());
    Head->getTerminator()->eraseFromParent();
    B.SetInsertPoint(Head);
    B.CreateCondBr(Condition, Tail, leaveBlock(), MDBuilder(C).createBranchWeights(1000000, 1));
  }

  void leaveOnError(Instruction *Next) {
    IRBuilder<> B(Next);
    Value *Error = B.CreateCall(runtimeFunction(runtime::Error, B.getInt32Ty(), {}));
    leaveUnless(B.CreateZExt(B.CreateICmpEQ(Error, B.getInt32(0)), B.getInt32Ty()), Next);
  }

  // Every cycle in the graph has such an edge, whatever gotos made it.
  void burnOnBackEdges() {
    SmallVector<std::pair<const BasicBlock *, const BasicBlock *>, 8> Edges;
    FindFunctionBackedges(F, Edges);
    for (auto [From, To] : Edges) {
      BasicBlock *Edge = SplitEdge(const_cast<BasicBlock *>(From), const_cast<BasicBlock *>(To));
      if (!Edge) {
        R.add(*From->getTerminator(), "a loop's edge cannot be split");
        continue;
      }
      IRBuilder<> B(Edge->getTerminator());
      leaveUnless(B.CreateCall(runtimeFunction(runtime::Burn, B.getInt32Ty(), {})), Edge->getTerminator());
    }
  }

  // --- access paths --------------------------------------------------------------------------------------------------

  const Access *resolve(Value *V) {
    auto [At, IsNew] = Known.try_emplace(V, std::nullopt);
    if (IsNew) {
      std::optional<Access> Found;
      if (auto *Call = dyn_cast<IntrinsicInst>(V))
        Found = resolveIntrinsic(*Call);
      else if (auto *Gep = dyn_cast<GetElementPtrInst>(V))
        Found = resolveArray(*Gep);
      Known[V] = std::move(Found);
    }
    auto &Result = Known[V];
    return Result ? &*Result : nullptr;
  }

  // pointer[0].member, as opposed to record.array[0].member
  static bool isSubscriptOfPointer(const IntrinsicInst &Call) {
    return cast<ConstantInt>(Call.getArgOperand(1))->isZero();
  }

  std::optional<Access> resolveIntrinsic(IntrinsicInst &Call) {
    unsigned MemberOperand;
    switch (Call.getIntrinsicID()) {
    case Intrinsic::preserve_struct_access_index:
      MemberOperand = 2;
      break;
    case Intrinsic::preserve_union_access_index:
      MemberOperand = 1;
      break;
    case Intrinsic::preserve_array_access_index: {
      const Access *Array = resolve(Call.getArgOperand(0));
      if (!Array || isSubscriptOfPointer(Call))
        return std::nullopt;
      Access Place = *Array;
      if (!subscript(Place, Call.getArgOperand(2), Call))
        return std::nullopt;
      return Place;
    }
    default:
      return std::nullopt;
    }
    auto *Declared = dyn_cast_or_null<DIType>(Call.getMetadata(LLVMContext::MD_preserve_access_index));
    auto *Record = dyn_cast_or_null<DICompositeType>(strip(Declared));
    if (!Record) {
      R.add(Call, "an access to a guest record without its type: compile with -g");
      return std::nullopt;
    }
    Access Place;
    const Access *Outer = resolve(Call.getArgOperand(0));
    if (Outer && strip(Outer->Type) == Record) {
      Place = *Outer;
    } else {
      StringRef Name = Record->getName().empty() ? Declared->getName() : Record->getName();
      if (Name.empty()) {
        R.add(Call, "a nameless guest record cannot be looked up: reach it through the record that contains it");
        return std::nullopt;
      }
      Place.Base = Call.getArgOperand(0);
      Place.Record = withoutFlavour(Name);
    }
    unsigned Number = cast<ConstantInt>(Call.getArgOperand(MemberOperand))->getZExtValue();
    auto *Member = cast<DIDerivedType>(Record->getElements()[Number]);
    if (Member->isBitField()) {
      R.add(Call, "'" + Member->getName() + "' is a bit-field: views cannot read those");
      return std::nullopt;
    }
    if (!Member->getName().empty())
      Place.Path += (Place.Path.empty() ? "" : ".") + Member->getName().str();
    Place.Type = Member->getBaseType();
    Place.Dimension = 0;
    return Place;
  }

  // clang says a subscript by an intrinsic when it is constant, else (and from the second dimension on) by a GEP over
  // [N x T] with the stride that it knows. The guest's stride is a slot.
  std::optional<Access> resolveArray(GetElementPtrInst &Gep) {
    if (!isGuestPointer(Gep.getType()) || !Gep.getSourceElementType()->isArrayTy())
      return std::nullopt;
    const Access *Outer = resolve(Gep.getPointerOperand());
    if (!Outer)
      return std::nullopt;
    Access Place = *Outer;
    if (!match(Gep.getOperand(1), PatternMatch::m_Zero())) {
      R.add(Gep, "pointer arithmetic over a whole guest array");
      return std::nullopt;
    }
    for (unsigned Operand = 2; Operand < Gep.getNumOperands(); Operand++)
      if (!subscript(Place, Gep.getOperand(Operand), Gep))
        return std::nullopt;
    return Place;
  }

  bool subscript(Access &Place, Value *Number, Instruction &At) {
    auto *Array = dyn_cast_or_null<DICompositeType>(strip(Place.Type));
    if (!Array || Array->getTag() != dwarf::DW_TAG_array_type) {
      R.add(At, "'" + Place.Path + "' is not an array");
      return false;
    }
    if (auto *Fixed = dyn_cast<ConstantInt>(Number)) {
      Place.Path += "[" + std::to_string(Fixed->getZExtValue()) + "]";
    } else {
      Place.Indexes.push_back({Number, Place.Path});
      Place.Path += "[0]";
    }
    if (++Place.Dimension == Array->getElements().size()) {
      Place.Type = Array->getBaseType();
      Place.Dimension = 0;
    }
    return true;
  }

  // --- emission ------------------------------------------------------------------------------------------------------

  AllocaInst *valueCell() {
    if (!ValueCell) {
      IRBuilder<> B(&F.getEntryBlock(), F.getEntryBlock().begin());
      ValueCell = B.CreateAlloca(B.getInt64Ty(), nullptr, "value");
    }
    return ValueCell;
  }

  // A call of a runtime function that answers through the cell; the view leaves when it answers 0.
  Value *answer(const char *Name, ArrayRef<Value *> Arguments, Instruction *Next) {
    IRBuilder<> B(Next);
    B.SetCurrentDebugLocation(Next->getDebugLoc());
    AllocaInst *Cell = valueCell();
    SmallVector<Value *, 4> All(Arguments);
    All.push_back(Cell);
    SmallVector<Type *, 4> Types;
    for (Value *Argument : All)
      Types.push_back(Argument->getType());
    Value *Ok = B.CreateCall(runtimeFunction(Name, B.getInt32Ty(), Types), All);
    leaveUnless(Ok, Next);
    B.SetInsertPoint(Next);
    return B.CreateLoad(B.getInt64Ty(), Cell);
  }

  Value *slotValue(ciel_slot_kind Kind, StringRef Record, StringRef Path, Instruction *Next) {
    Value *Slot = ConstantInt::get(Type::getInt32Ty(C), S.number(Kind, Record, Path));
    bool IsAlwaysAvailable = Kind == CIEL_SLOT_FIELD_EXISTS || Kind == CIEL_SLOT_TYPE_EXISTS ||
                             Kind == CIEL_SLOT_ENUM_EXISTS || Kind == CIEL_SLOT_SYMBOL_EXISTS;
    if (!IsAlwaysAvailable)
      return answer(runtime::Value, {Slot}, Next);
    IRBuilder<> B(Next);
    return B.CreateCall(runtimeFunction(runtime::Fact, B.getInt64Ty(), {B.getInt32Ty()}), {Slot});
  }

  // The address of the record that contains a place, moved on by the indexes; the slot of the path is still to be added.
  Value *baseAddress(const Access &Place, Instruction *Next) {
    IRBuilder<> B(Next);
    auto Lowered = Addresses.find(Place.Base);
    Value *Address = B.CreatePtrToInt(Lowered == Addresses.end() ? &*Place.Base : Lowered->second, B.getInt64Ty());
    for (const Access::Index &Index : Place.Indexes) {
      Value *Stride = slotValue(CIEL_SLOT_ELEMENT_SIZE, Place.Record, Index.Array, Next);
      B.SetInsertPoint(Next);
      Address = B.CreateAdd(Address, B.CreateMul(B.CreateSExtOrTrunc(Index.Number, B.getInt64Ty()), Stride));
    }
    return Address;
  }

  void lower(Instruction &I) {
    if (auto *Load = dyn_cast<LoadInst>(&I)) {
      if (Load->getPointerAddressSpace() == GuestAddressSpace)
        lowerLoad(*Load);
    } else if (auto *Call = dyn_cast<CallInst>(&I)) {
      lowerCall(*Call);
    } else if (auto *Gep = dyn_cast<GetElementPtrInst>(&I)) {
      if (isGuestPointer(Gep->getType()))
        lowerArithmetic(*Gep);
    }
  }

  void lowerLoad(LoadInst &Load) {
    Type *Wanted = Load.getType();
    bool IsPointer = isGuestPointer(Wanted);
    unsigned Bits = IsPointer ? 64 : Wanted->isIntegerTy() ? Wanted->getIntegerBitWidth() : 0;
    if (Load.isAtomic())
      return R.add(Load, "an atomic load through a guest pointer");
    if (Bits != 8 && Bits != 16 && Bits != 32 && Bits != 64) {
      if (Wanted->isPointerTy())
        return R.add(Load, "a pointer read from the guest must be declared GUEST: it is no host address");
      return R.add(Load, "only integers of 1, 2, 4 or 8 bytes and guest pointers can be loaded from the guest");
    }
    IRBuilder<> B(&Load);
    Value *Width = B.getInt32(Bits / 8);
    Value *Raw;
    if (const Access *Place = resolve(Load.getPointerOperand())) {
      Value *Slot = B.getInt32(S.number(CIEL_SLOT_FIELD_OFFSET, Place->Record, Place->Path));
      Value *IsExact = B.getInt32(IsPointer);
      Value *Base = baseAddress(*Place, &Load);
      Raw = answer(runtime::Load, {Base, Slot, Width, IsExact}, &Load);
    } else {
      Value *Address = B.CreatePtrToInt(Load.getPointerOperand(), B.getInt64Ty());
      Raw = answer(runtime::Read, {Address, Width}, &Load);
    }
    B.SetInsertPoint(&Load);
    Load.replaceAllUsesWith(IsPointer ? B.CreateIntToPtr(Raw, Wanted) : B.CreateTrunc(Raw, Wanted));
    Dead.insert(&Load);
  }

  // The address of a place, for uses other than a load: passing it on, comparing it, keeping it in a variable.
  void lowerAddress(Instruction &I) {
    Dead.insert(&I);
    const Access *Place = resolve(&I);
    if (!Place)
      return;
    auto IsOther = [&](const Use &U) {
      auto *User = cast<Instruction>(U.getUser());
      if (auto *Load = dyn_cast<LoadInst>(User))
        return Load->getPointerAddressSpace() != GuestAddressSpace;
      if (auto *Call = dyn_cast<IntrinsicInst>(User))
        if (Call->getIntrinsicID() == Intrinsic::bpf_preserve_field_info)
          return false;
      const Access *Inner = resolve(User);
      return !(Inner && Inner->Base == Place->Base && User->getOperand(0) == &I);
    };
    if (none_of(I.uses(), IsOther))
      return;
    uint32_t Number = S.number(CIEL_SLOT_FIELD_OFFSET, Place->Record, Place->Path);
    IRBuilder<> B(&I);
    Value *Slot = B.getInt32(Number);
    // A later load through this address knows no slot: it reads the size that the view declares, so the guest's member
    // must have that size.
    const DIType *Type = strip(Place->Type);
    if (!isa<DICompositeType>(Type) || Type->getTag() == dwarf::DW_TAG_enumeration_type) {
      auto Sized = runtimeFunction(runtime::Sized, B.getInt32Ty(), {B.getInt32Ty(), B.getInt32Ty()});
      leaveUnless(B.CreateCall(Sized, {Slot, B.getInt32(Type->getSizeInBits() / 8)}), &I);
      B.SetInsertPoint(&I);
    }
    Value *Base = baseAddress(*Place, &I);
    Value *Offset = slotValue(CIEL_SLOT_FIELD_OFFSET, Place->Record, Place->Path, &I);
    B.SetInsertPoint(&I);
    Value *Address = B.CreateIntToPtr(B.CreateAdd(Base, Offset), I.getType());
    Addresses[&I] = Address;
    I.replaceUsesWithIf(Address, [&](Use &U) { return IsOther(U); });
  }

  // Arithmetic on a guest pointer outside of any record: fine over integers and pointers, whose size is the same
  // everywhere; a record's size is the guest's.
  void lowerArithmetic(GetElementPtrInst &Gep) {
    if (resolve(&Gep))
      return lowerAddress(Gep);
    Type *Element = Gep.getSourceElementType();
    while (Element->isArrayTy())
      Element = Element->getArrayElementType();
    if (Element->isIntegerTy() || Element->isPointerTy())
      return;
    if (Gep.hasAllZeroIndices()) {
      Gep.replaceAllUsesWith(Gep.getPointerOperand());
      Dead.insert(&Gep);
      return;
    }
    R.add(Gep, RecordArithmetic);
  }

  void lowerCall(CallInst &Call) {
    Function *Callee = Call.getCalledFunction();
    if (!Callee)
      return; // refused by the verifier
    switch (Callee->getIntrinsicID()) {
    case Intrinsic::preserve_struct_access_index:
    case Intrinsic::preserve_union_access_index:
      return lowerAddress(Call);
    case Intrinsic::preserve_array_access_index:
      if (resolve(&Call))
        return lowerAddress(Call);
      if (!isSubscriptOfPointer(cast<IntrinsicInst>(Call)) || !match(Call.getArgOperand(2), PatternMatch::m_Zero()))
        return R.add(Call, RecordArithmetic);
      return replace(Call, Call.getArgOperand(0));
    case Intrinsic::bpf_preserve_field_info:
      return lowerFieldInfo(Call);
    case Intrinsic::bpf_preserve_type_info:
      return lowerTypeInfo(Call);
    case Intrinsic::bpf_preserve_enum_value:
      return lowerEnumValue(Call);
    default:
      if (Callee->isIntrinsic())
        return;
    }
    StringRef Name = Callee->getName();
    if (Name == marker::Symbol)
      replace(Call, slotValue(CIEL_SLOT_SYMBOL, "", text(Call), &Call));
    else if (Name == marker::SymbolExists)
      replace(Call, slotValue(CIEL_SLOT_SYMBOL_EXISTS, "", text(Call), &Call));
    else if (Name == marker::Fail)
      lowerFail(Call);
    else if (Name == marker::Try)
      lowerTry(Call);
    else if (Name == marker::FailedSlot)
      rename(Call, runtime::FailedSlot);
    else if (Name == marker::Note)
      rename(Call, runtime::Note);
    else if (Name == marker::Noted)
      rename(Call, runtime::Noted);
    else if (Name == marker::Spoil)
      rename(Call, runtime::Spoil);
    else if (Name == marker::Bounded)
      lowerChecked(Call, runtime::Bounded);
    else if (Name == marker::Divisor)
      lowerChecked(Call, runtime::Divisor);
    else if (Name == marker::String) {
      Call.setCalledFunction(runtimeFunction(runtime::String, Call.getType(), Call.getFunctionType()->params()));
      if (!isTried(Call))
        leaveOnError(Call.getNextNode());
    } else if (!Callee->isDeclaration() && !isTried(Call)) {
      leaveOnError(Call.getNextNode());
    }
  }

  void rename(CallInst &Call, const char *Name) {
    Call.setCalledFunction(runtimeFunction(Name, Call.getType(), Call.getFunctionType()->params()));
  }

  void replace(Instruction &I, Value *By) {
    IRBuilder<> B(&I);
    if (By->getType()->isIntegerTy())
      By = B.CreateZExtOrTrunc(By, I.getType());
    I.replaceAllUsesWith(By);
    Dead.insert(&I);
  }

  // The text of a marker's argument, which must be a literal.
  std::string text(CallInst &Call) {
    auto *Global = dyn_cast<GlobalVariable>(Call.getArgOperand(0)->stripPointerCasts());
    auto *Bytes = Global && Global->hasInitializer() ? dyn_cast<ConstantDataArray>(Global->getInitializer()) : nullptr;
    if (Bytes && Bytes->isCString())
      return Bytes->getAsCString().str();
    R.add(Call, "the name of a symbol must be a literal");
    return "";
  }

  void lowerFieldInfo(CallInst &Call) {
    const Access *Place = resolve(Call.getArgOperand(0));
    if (!Place)
      return R.add(Call, "a question about a field that is no access to a guest record");
    ciel_slot_kind Kind;
    switch (cast<ConstantInt>(Call.getArgOperand(1))->getZExtValue()) {
    case 0:
      Kind = CIEL_SLOT_FIELD_OFFSET;
      break;
    case 1:
      Kind = CIEL_SLOT_FIELD_SIZE;
      break;
    case 2:
      Kind = CIEL_SLOT_FIELD_EXISTS;
      break;
    default:
      return R.add(Call, "only offset, size and existence of a guest's field can be asked");
    }
    if (!Place->Indexes.empty())
      return R.add(Call, "a question about a field needs constant indexes");
    replace(Call, slotValue(Kind, Place->Record, Place->Path, &Call));
  }

  void lowerTypeInfo(CallInst &Call) {
    auto *Asked = cast<DIType>(Call.getMetadata(LLVMContext::MD_preserve_access_index));
    uint64_t Flag = cast<ConstantInt>(Call.getArgOperand(1))->getZExtValue();
    if (Flag > 1)
      return R.add(Call, "only existence and size of a guest's type can be asked");
    if (Asked->getName().empty())
      return R.add(Call, "a nameless guest type cannot be looked up");
    replace(Call, slotValue(Flag == 0 ? CIEL_SLOT_TYPE_EXISTS : CIEL_SLOT_TYPE_SIZE, withoutFlavour(Asked->getName()),
                            "", &Call));
  }

  // clang passes the enumerator as a literal "name:value".
  void lowerEnumValue(CallInst &Call) {
    auto *Asked = cast<DIType>(Call.getMetadata(LLVMContext::MD_preserve_access_index));
    auto *Global = cast<GlobalVariable>(Call.getArgOperand(1)->stripPointerCasts());
    StringRef Text = cast<ConstantDataArray>(Global->getInitializer())->getAsCString();
    bool IsValue = cast<ConstantInt>(Call.getArgOperand(2))->isOne();
    replace(Call, slotValue(IsValue ? CIEL_SLOT_ENUM_VALUE : CIEL_SLOT_ENUM_EXISTS, withoutFlavour(Asked->getName()),
                            withoutFlavour(Text.split(':').first), &Call));
  }

  void lowerFail(CallInst &Call) {
    IRBuilder<> B(&Call);
    B.CreateCall(runtimeFunction(runtime::Fail, B.getVoidTy(), {B.getInt32Ty()}), {Call.getArgOperand(0)});
    leaveUnless(B.getInt32(0), &Call);
    Dead.insert(&Call);
  }

  // index and divisor: frozen first, so that what is checked is what is used.
  void lowerChecked(CallInst &Call, const char *Name) {
    IRBuilder<> B(&Call);
    Call.setArgOperand(0, B.CreateFreeze(Call.getArgOperand(0)));
    Call.setCalledFunction(runtimeFunction(Name, Call.getType(), Call.getFunctionType()->params()));
    leaveOnError(Call.getNextNode());
  }

  static bool isTry(const User *U) {
    auto *Call = dyn_cast<CallInst>(U);
    return Call && Call->getCalledFunction() && Call->getCalledFunction()->getName() == marker::Try;
  }
  static bool isTried(const CallInst &Call) { return any_of(Call.users(), isTry); }

  // TRY(view(…)): the callee's error becomes this expression's value. An empty tank is nobody's to forgive.
  void lowerTry(CallInst &Try) {
    auto *Tried = dyn_cast<CallInst>(Try.getArgOperand(0));
    Function *Callee = Tried ? Tried->getCalledFunction() : nullptr;
    if (!Callee || (Callee->isDeclaration() && Callee->getName() != runtime::String) ||
        Tried->getNextNonDebugInstruction() != &Try || !Tried->hasOneUse())
      return R.add(Try, "TRY() takes a call of another view, and nothing else");
    IRBuilder<> B(&Try);
    auto Tolerate = runtimeFunction(runtime::Tolerate, B.getInt32Ty(), {B.getInt32Ty()});
    Try.replaceAllUsesWith(B.CreateCall(Tolerate, {Tried}));
    leaveOnError(&Try);
    Dead.insert(&Try);
  }
};

} // namespace

PreservedAnalyses LowerPass::run(Module &M, ModuleAnalysisManager &) {
  Refusals R;
  for (Function &F : M)
    if (F.getName().starts_with(runtime::Prefix))
      R.add(F.getName(), "names that begin with ciel_rt_ belong to the lowered code");
  R.exitIfAny();

  Slots S;
  for (Function &F : M)
    if (!F.isDeclaration())
      ViewLowering(F, S, R).run();
  S.emit(M);
  R.exitIfAny();
  return PreservedAnalyses::none();
}

} // namespace llview
