// SPDX-License-Identifier: Apache-2.0
// expect: TRY() takes a call of another view
#include "../records.h"

int view(int number)
{
	return TRY(number + 1);
}
