// SPDX-License-Identifier: Apache-2.0
// expect: 'flag' is a bit-field
#include "../records.h"

GUEST_RECORDS_BEGIN
struct holder {
	u32 flag : 1;
};
GUEST_RECORDS_END

int view(u64 address)
{
	return (s32)((struct holder GUEST *)address)->flag;
}
