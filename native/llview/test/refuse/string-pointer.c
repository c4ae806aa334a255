// SPDX-License-Identifier: Apache-2.0
// expect: a string is read into a whole host array
#include "../records.h"

int view(u64 address, char *name)
{
	return g_string(name, 16, address);
}
