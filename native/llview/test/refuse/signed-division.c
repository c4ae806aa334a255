// SPDX-License-Identifier: Apache-2.0
// expect: a signed division by what is no constant
#include "../records.h"

int view(int a, int b)
{
	return a / b;
}
