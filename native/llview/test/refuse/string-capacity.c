// SPDX-License-Identifier: Apache-2.0
// expect: a string is read into a whole host array
#include "../records.h"

int view(u64 address, struct answer *answer)
{
	return g_string(answer->name, 4096, address);
}
