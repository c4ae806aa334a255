// SPDX-License-Identifier: Apache-2.0
// expect: must be declared GUEST
#include "../records.h"

GUEST_RECORDS_BEGIN
struct holder {
	struct item *item;
};
GUEST_RECORDS_END

int view(u64 address)
{
	return ((struct holder GUEST *)address)->item != 0;
}
