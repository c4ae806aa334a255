// SPDX-License-Identifier: Apache-2.0
// expect: a host pointer kept in memory
#include "../records.h"

struct list {
	struct answer *first;
};

int view(struct list *list)
{
	list->first->number = 1;
	return 0;
}
