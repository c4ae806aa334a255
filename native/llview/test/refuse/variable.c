// SPDX-License-Identifier: Apache-2.0
// expect: a view has no variables of its own that outlive it
#include "../records.h"

int view(int number)
{
	static int last;

	last += number;
	return last;
}
