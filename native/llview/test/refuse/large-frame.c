// SPDX-License-Identifier: Apache-2.0
// expect: bytes of stack
#include "../records.h"

struct large {
	u64 numbers[10000];
};

int view(u64 index)
{
	struct large large = {};

	return (s32)host_at(large.numbers, index);
}
