# SPDX-License-Identifier: Apache-2.0
#
# Compiles the views (mapper/views/*.c) through LLView into $(BUILD)/views.o; `make check-llview` tests the pass.
# Included by ../Makefile, which sets BUILD; works from any directory.
LLVIEW := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
MAPPER := $(LLVIEW)/../mapper
BUILD ?= $(LLVIEW)/../../build/native

LLVM_VERSION ?= 19
CLANG := clang-$(LLVM_VERSION)
OPT := opt-$(LLVM_VERSION)
LLC := llc-$(LLVM_VERSION)
LLVM_LINK := llvm-link-$(LLVM_VERSION)
LLVM_CONFIG := llvm-config-$(LLVM_VERSION)

# For bpf clang keeps each access to a guest record as a CO-RE intrinsic; its own passes would fold them away, so they run
# after the lowering. What C leaves undefined is defined here, as the guest may choose the operands.
VIEW_FLAGS := --target=bpf -mcpu=v4 -std=gnu17 -g -O1 -Xclang -disable-llvm-passes -Xclang -disable-lifetime-markers -emit-llvm -ffreestanding -fwrapv \
	-fno-strict-aliasing -ftrivial-auto-var-init=zero -Wall -Wextra -Werror
LLVIEW_PASSES := function(mem2reg),llview,llview-verify,llview-target
export VIEW_FLAGS LLVIEW_PASSES

# $(call link-views,object,bitcode of the views): lower, verify, add the runtime, optimise, compile.
define link-views
$(LLVM_LINK) $(2) -o $(1:.o=.linked.bc)
$(OPT) -load-pass-plugin $(BUILD)/LLView.so -passes='$(LLVIEW_PASSES)' $(1:.o=.linked.bc) -o $(1:.o=.lowered.bc)
$(LLVM_LINK) -internalize $(1:.o=.lowered.bc) $(BUILD)/llview-runtime.bc -o $(1:.o=.whole.bc)
$(OPT) -passes='default<O2>' $(1:.o=.whole.bc) -o $(1:.o=.optimised.bc)
$(LLC) -O2 -relocation-model=pic -filetype=obj $(1:.o=.optimised.bc) -o $(1)
endef

VIEW_SOURCES := $(wildcard $(MAPPER)/views/*.c)
VIEW_HEADERS := $(wildcard $(MAPPER)/views/*.h) $(MAPPER)/view-runtime.h
VIEW_BITCODE := $(patsubst $(MAPPER)/views/%.c,$(BUILD)/views/%.bc,$(VIEW_SOURCES))

$(BUILD)/views.o: $(VIEW_BITCODE) $(BUILD)/LLView.so $(BUILD)/llview-runtime.bc
	$(call link-views,$@,$(VIEW_BITCODE))

$(BUILD)/views/%.bc: $(MAPPER)/views/%.c $(VIEW_HEADERS) $(LLVIEW)/views.mk
	@mkdir -p $(@D)
	$(CLANG) $(VIEW_FLAGS) -I$(MAPPER) -c $< -o $@

$(BUILD)/LLView.so: $(LLVIEW)/plugin.cpp $(LLVIEW)/lower.cpp $(LLVIEW)/verify.cpp $(LLVIEW)/llview.h $(MAPPER)/view-runtime.h
	@mkdir -p $(@D)
	clang++-$(LLVM_VERSION) $(shell $(LLVM_CONFIG) --cxxflags) -std=c++17 -O1 -Wall -Wno-unused-parameter -fPIC -shared \
		-I$(MAPPER) $(filter %.cpp,$^) -o $@

$(BUILD)/llview-runtime.bc: $(LLVIEW)/runtime.c $(MAPPER)/view-runtime.h
	@mkdir -p $(@D)
	$(CLANG) -std=gnu17 -O2 -Xclang -disable-llvm-passes -fPIC -Wall -Wextra -Werror -emit-llvm -I$(MAPPER) -c $< -o $@

# --- tests of the pass ----------------------------------------------------------------------------------------------------

.PHONY: check-llview
check-llview: $(BUILD)/llview-behaviour
	$(LLVIEW)/test/refuse.sh $(BUILD)/LLView.so $(MAPPER) $(CLANG) $(OPT)
	$(BUILD)/llview-behaviour

$(BUILD)/llview-behaviour: $(LLVIEW)/test/behaviour.c $(BUILD)/llview-test/behaviour-views.o
	$(CLANG) -std=gnu17 -g -Wall -Wextra -Werror -I$(MAPPER) $^ -o $@

$(BUILD)/llview-test/behaviour-views.o: $(BUILD)/llview-test/behaviour-views.bc $(BUILD)/LLView.so $(BUILD)/llview-runtime.bc
	$(call link-views,$@,$<)

$(BUILD)/llview-test/%.bc: $(LLVIEW)/test/%.c $(LLVIEW)/test/records.h $(VIEW_HEADERS) $(LLVIEW)/views.mk
	@mkdir -p $(@D)
	$(CLANG) $(VIEW_FLAGS) -I$(MAPPER) -c $< -o $@

# --- tests of the views, on a made-up guest -------------------------------------------------------------------------------

.PHONY: check-views
check: check-views
MADE_UP_GUEST := $(LLVIEW)/../../test/native/made-up-guest.h $(LLVIEW)/../../test/native/test.h
check-views: $(BUILD)/views-test $(BUILD)/detail-views-test
	$(BUILD)/views-test
	$(BUILD)/detail-views-test

RECORDING_OBJECTS := $(patsubst %,$(BUILD)/mapper/%.o,record translate status layout/qemu memory/source memory/array)
$(BUILD)/views-test: $(LLVIEW)/../../test/native/views.c $(MADE_UP_GUEST) $(BUILD)/views.o $(RECORDING_OBJECTS)
	$(CLANG) -std=gnu17 -g -O2 -Wall -Wextra -Werror -I$(MAPPER) $(filter %.c %.o,$^) -o $@

$(BUILD)/detail-views-test: $(LLVIEW)/../../test/native/detail-views.c $(MADE_UP_GUEST) $(BUILD)/views.o
	$(CLANG) -std=gnu17 -g -O2 -Wall -Wextra -Werror -I$(MAPPER) $(filter %.c %.o,$^) -o $@
