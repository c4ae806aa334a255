// SPDX-License-Identifier: Apache-2.0
// expect: poisoned identifier
#include "../records.h"

int view(u64 address)
{
	return (s32)(address + sizeof(struct item));
}
