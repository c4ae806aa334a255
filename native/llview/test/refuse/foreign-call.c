// SPDX-License-Identifier: Apache-2.0
// expect: a call of 'abs_of', which is neither a view nor part of the runtime
#include "../records.h"

int abs_of(int number);

int view(int number)
{
	return abs_of(number);
}
