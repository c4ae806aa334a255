// SPDX-License-Identifier: Apache-2.0
//
// Views that use the language's features one by one; behaviour.c runs them on a made-up guest.
#include "records.h"

int view_number(u64 address)
{
	return ((struct item GUEST *)address)->number;
}

int view_large(u64 address, struct answer *answer)
{
	answer->number = ((struct item GUEST *)address)->large;
	return 0;
}

int view_widened(u64 address, struct answer *answer)
{
	answer->number = (u64)((struct item GUEST *)address)->widened;
	return 0;
}

int view_absent(u64 address, struct answer *answer)
{
	struct item GUEST *item = (struct item GUEST *)address;

	answer->numbers[0] = 1;
	answer->number = item->absent;
	answer->numbers[0] = 2;
	return 0;
}

int view_exists(u64 address, struct answer *answer)
{
	struct item GUEST *item = (struct item GUEST *)address;

	if (field_exists(struct item, absent))
		answer->number = item->absent;
	else
		answer->number = item->large;
	answer->numbers[0] = field_exists(struct item, large);
	answer->numbers[1] = type_exists(struct item);
	answer->numbers[2] = enum_exists(___nameless, absent_flag);
	answer->numbers[3] = enum_exists(___nameless, nameless_flag);
	answer->numbers[4] = symbol_exists(no_such_symbol);
	return 0;
}

int view_facts(struct answer *answer)
{
	answer->numbers[0] = guest_enum(color, second_color);
	answer->numbers[1] = guest_enum(___nameless, nameless_flag);
	answer->numbers[2] = type_size(struct item);
	answer->numbers[3] = field_size(struct item, pairs);
	answer->numbers[4] = field_offset(struct item, link.next);
	answer->numbers[5] = (u64)container_of(0x1000, struct item, link);
	answer->numbers[6] = (u64)guest_symbol(u64, jiffies_64);
	answer->numbers[7] = *guest_symbol(u64, jiffies_64);
	return 0;
}

int view_indexes(u64 address, u64 row, u64 column, struct answer *answer)
{
	struct item GUEST *item = (struct item GUEST *)address;
	struct pair GUEST *pair = &item->pairs[column];
	u32 GUEST *cells = item->grid[row];

	answer->numbers[0] = item->grid[row][column];
	answer->numbers[1] = item->grid[2][1];
	answer->numbers[2] = item->pairs[column].right;
	answer->numbers[3] = pair->right;
	answer->numbers[4] = cells[column];
	answer->numbers[5] = item->others[column]->large;
	answer->numbers[6] = item->in_union;
	answer->numbers[7] = item->in_struct;
	return 0;
}

/* The address of a member, taken: its size must be the declared one. */
int view_address_of(u64 address, struct answer *answer)
{
	s64 GUEST *widened = &((struct item GUEST *)address)->widened;

	answer->number = (u64)widened;
	return 0;
}

int view_list(u64 head, struct answer *answer)
{
	struct link GUEST *link = (struct link GUEST *)head;

	for (link = link->next; (u64)link != head; link = link->next)
		answer->number++;
	return 0;
}

int view_spin(u64 rounds, struct answer *answer)
{
	u64 hash = 1;

	for (u64 i = 0; i < rounds; i++)
		hash = hash * 6364136223846793005u + (hash >> 7);
	answer->number = hash;
	return 0;
}

/* A circle that no loop statement made. */
int view_goto(u64 rounds, struct answer *answer)
{
	if (rounds & 1)
		goto odd;
even:
	answer->number++;
	if (rounds-- == 0)
		return 0;
odd:
	answer->number += 2;
	if (rounds-- == 0)
		return 0;
	goto even;
}

static u64 deep(u64 address)
{
	return ((struct item GUEST *)address)->large;
}

static int deeper(u64 address, struct answer *answer)
{
	answer->number = deep(address) + 1;
	answer->numbers[0] = 1;
	return 5;
}

int view_nested(u64 address, struct answer *answer)
{
	int five = deeper(address, answer);

	answer->numbers[1] = 1;
	return five;
}

int view_tolerant(u64 bad, u64 good, struct answer *answer)
{
	answer->numbers[2] = (u64)(s64)TRY(deeper(bad, answer));
	answer->numbers[3] = (u64)(s64)TRY(deeper(good, answer));
	return 0;
}

static int absent(u64 address, struct answer *answer)
{
	return view_absent(address, answer);
}

int view_tolerant_of_absence(u64 address, struct answer *answer)
{
	answer->numbers[2] = (u64)(s64)TRY(absent(address, answer));
	answer->numbers[3] = ciel_failed_slot();
	return 0;
}

static int endless(u64 head, struct answer *answer)
{
	return view_list(head, answer);
}

int view_tolerant_of_no_fuel(u64 head, struct answer *answer)
{
	answer->numbers[2] = (u64)(s64)TRY(endless(head, answer));
	answer->numbers[3] = 1;
	return 0;
}

int view_fail(u64 number)
{
	if (number == 7)
		fail(CIEL_VIEW_CHANGED);
	return 1;
}

int view_host_array(u64 index, u64 value, struct answer *answer)
{
	host_at(answer->numbers, index) = value;
	return 0;
}

int view_host_slice(struct answer *answers, u64 capacity, u64 index)
{
	host_slice(answers, capacity, index).number = 1;
	return 0;
}

int view_divide(u64 a, u64 b, struct answer *answer)
{
	answer->number = a / divisor(b);
	return 0;
}

int view_shift(u64 amount, struct answer *answer)
{
	answer->number = 1ull << amount;
	return 0;
}

int view_string(u64 address, struct answer *answer)
{
	return guest_string(answer->name, address);
}

/* Read once: both comparisons must see one value, though the guest changes it between. */
int view_once(u64 address, struct answer *answer)
{
	u64 value = ((struct item GUEST *)address)->large;

	answer->numbers[0] = value;
	answer->numbers[1] = value;
	return 0;
}

int view_recorded(u64 address, struct answer *answer)
{
	struct item GUEST *item = (struct item GUEST *)address;

	answer->numbers[0] = (u64)item->number;
	answer->number = 100;
	count(answer->number, item->large);
	answer->numbers[1] = passing(item->large);
	answer->numbers[2] = item->large;
	return 0;
}

/* A counter behind a pointer: two loads. */
int view_badly_recorded(u64 address, struct answer *answer)
{
	struct item GUEST *item = (struct item GUEST *)address;

	answer->number = 0;
	count(answer->number, item->others[0]->large);
	return 0;
}

int view_tolerant_while_recording(u64 address, struct answer *answer)
{
	TRY(view_badly_recorded(address, answer));
	return 0;
}
