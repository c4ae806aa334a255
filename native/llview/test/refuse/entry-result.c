// SPDX-License-Identifier: Apache-2.0
// expect: a view that the mapper calls returns int
#include "../records.h"

u64 view(u64 address)
{
	return address;
}
