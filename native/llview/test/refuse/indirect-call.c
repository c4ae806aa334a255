// SPDX-License-Identifier: Apache-2.0
// expect: an indirect call
#include "../records.h"

int view(int (*callback)(void))
{
	return callback();
}
