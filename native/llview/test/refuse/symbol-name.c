// SPDX-License-Identifier: Apache-2.0
// expect: the name of a symbol must be a literal
#include "../records.h"

int view(const char *name)
{
	return (s32)ciel_symbol(name);
}
