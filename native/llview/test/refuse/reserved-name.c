// SPDX-License-Identifier: Apache-2.0
// expect: names that begin with ciel_rt_ belong to the lowered code
#include "../records.h"

int ciel_rt_burn(void);

int view(void)
{
	return ciel_rt_burn();
}
