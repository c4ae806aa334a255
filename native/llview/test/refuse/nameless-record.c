// SPDX-License-Identifier: Apache-2.0
// expect: a nameless guest record cannot be looked up
#include "../records.h"

GUEST_RECORDS_BEGIN
struct holder {
	struct {
		u32 number;
	} part;
};
GUEST_RECORDS_END

static u32 number(__typeof__(((struct holder *)0)->part) GUEST *part)
{
	return part->number;
}

int view(u64 address)
{
	return (s32)number(&((struct holder GUEST *)address)->part);
}
