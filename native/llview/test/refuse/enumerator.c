// SPDX-License-Identifier: Apache-2.0
// expect: an enumerator of the guest: use guest_enum()
#include "../records.h"

int view(u64 address)
{
	return (s32)(address + second_color);
}
