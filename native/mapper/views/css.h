/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cgroups and their controllers' states (css), which form one tree per controller: looking them up, guarding a reading,
 * walking a subtree.
 */
#ifndef CIEL_VIEWS_CSS_H
#define CIEL_VIEWS_CSS_H

#include "kernel.h"
#include "views.h"

enum { VIEW_TRIES = 3 };

/* Files a helper's result as a figure's status. */
static inline void settle(struct view_figure *figure, s32 status)
{
	figure->status = status;
	figure->slot = status == CIEL_VIEW_NO_SLOT ? ciel_failed_slot() : 0;
	if (status)
		figure->value = 0;
}

static inline int css_is_online(struct cgroup_subsys_state GUEST *css)
{
	return (css->flags & guest_enum(___css_flags, CSS_ONLINE)) != 0;
}

/*
 * The cgroup at an address is still the one that the list named. Asked before and, afresh, after a reading: a freed cgroup
 * keeps its serial number, and a new one at the same address gets another.
 */
static inline struct cgroup GUEST *guard(u64 address, u64 serial)
{
	struct cgroup GUEST *cgroup = (struct cgroup GUEST *)address;

	if (cgroup->self.serial_nr != serial || !css_is_online(&cgroup->self))
		fail(CIEL_VIEW_CHANGED);
	return cgroup;
}

/* Of version 2; what is not, is in one of version 1's. */
static inline int is_in_default_hierarchy(struct cgroup GUEST *cgroup)
{
	return (u64)cgroup->root == (u64)guest_symbol(struct cgroup_root, cgrp_dfl_root);
}

/* A controller's state of a cgroup, or 0: not enabled there. `controller` is the kernel's number for it. */
static inline struct cgroup_subsys_state GUEST *css_of(struct cgroup GUEST *cgroup, u64 controller)
{
	struct cgroup_subsys_state GUEST *css = cgroup->subsys[controller];

	if (css && css->cgroup != cgroup)
		fail(CIEL_VIEW_CHANGED);
	return css;
}

/*
 * Flushes. The kernel counts per CPU (cur), and adds what is new since the last time (cur - last) to the cgroup's total and
 * its ancestors' only when somebody reads a file, or every two seconds. What is not flushed yet must be added here:
 *
 *   the top's total + Σ over the subtree ( Σ over CPUs (cur - last) + what children have handed up, but not yet further )
 *
 * A flush that came between two of these loads would be counted twice or not at all. So a reading is
 *
 *   1. the sum of all `last`
 *   2. afresh, all totals
 *   3. is no flush running? (one that stands still between its two additions changes nothing that could be seen twice)
 *   4. all `last` again, and `cur`: when the sum is that of 1, no flush came between 1 and 4
 *
 * and is repeated when 3 or 4 does not hold. CPU time asks before 2, too, whether a flush is running, as older kernels move
 * `last` on before the totals; and compares the totals with those of 1, as a flush may only hand up what is on its way.
 *
 * Recorded, all this is one constant. A flush moves counts from one place to the next, so
 *
 *   the top's total + what is on its way - Σ last
 *
 * stays what it is as long as no state joins or leaves the subtree, which its checks would see; only `cur` grows. So total
 * and last are passing() loads, cur is a count(), and a repeat cannot be torn by a flush: it reads neither.
 */
/*
 * A number that stands for a sequence of counters. Not their sum: these go up and down, and what a flush takes from one it
 * adds to another.
 */
static inline void mix(u64 *number, u64 counter)
{
	*number = *number * 0x9e3779b97f4a7c15ull + counter;
}

static inline int lock_is_held(u64 lock)
{
	if (field_exists(struct spinlock___sleeping, lock.owner))
		return passing(((struct spinlock___sleeping GUEST *)lock)->lock.owner) != 0;
	return passing(*(u32 GUEST *)lock) != 0;
}

/* Of CPU time. */
static inline int base_flush_is_running(void)
{
	if (symbol_exists(rstat_base_lock))
		return lock_is_held((u64)guest_symbol(u32, rstat_base_lock));
	if (symbol_exists(cgroup_rstat_lock))
		return lock_is_held((u64)guest_symbol(u32, cgroup_rstat_lock));
	if (symbol_exists(cgroup_stat_mutex))
		return lock_is_held((u64)guest_symbol(u32, cgroup_stat_mutex));
	return 0;
}

/* Of a controller's figures. */
static inline int flush_is_running(struct cgroup_subsys_state GUEST *css)
{
	if (field_exists(struct cgroup_subsys, rstat_ss_lock))
		return lock_is_held((u64)&css->ss->rstat_ss_lock);
	return base_flush_is_running();
}

/* Whether a memory cgroup counts its pages without those below it: up to 5.1. */
static inline int counts_own_items(void)
{
	return !field_exists(struct mem_cgroup, vmstats) && (field_exists(struct mem_cgroup___own_array, stat[0].counter) ||
							     type_exists(struct mem_cgroup_stat_cpu));
}

/*
 * A subtree, parents before children, without recursion. Removed states stay in the tree until their last user is gone,
 * and still count.
 *
 * Every child is younger than its parent and its elder siblings, by serial number. So a walk that the guest has bent into
 * a circle, or that went astray in a freed state, ends at once.
 */
struct css_walk {
	u64 depth; /* of the current state below the first */
	struct {
		u64 css;
		u64 siblings; /* the address of the list it is in */
		u64 serial;
	} at[VIEW_MAX_DEPTH + 1];
};

static inline void css_walk_start(struct css_walk *walk, struct cgroup_subsys_state GUEST *css)
{
	walk->depth = 0;
	walk->at[0].css = (u64)css;
	walk->at[0].serial = css->serial_nr;
}

static inline struct cgroup_subsys_state GUEST *css_walk_to(struct css_walk *walk, u64 depth,
							    struct list_head GUEST *siblings,
							    struct list_head GUEST *link, u64 older_than)
{
	struct cgroup_subsys_state GUEST *css = container_of(link, struct cgroup_subsys_state, sibling);
	u64 serial = css->serial_nr;

	if (serial <= older_than)
		fail(CIEL_VIEW_CHANGED);
	host_at(walk->at, depth).css = (u64)css;
	host_at(walk->at, depth).siblings = (u64)siblings;
	host_at(walk->at, depth).serial = serial;
	walk->depth = depth;
	return css;
}

/* The next state, or 0 at the end. LIMIT when the tree is too deep. */
static inline struct cgroup_subsys_state GUEST *css_walk_next(struct css_walk *walk)
{
	u64 depth = walk->depth;
	struct cgroup_subsys_state GUEST *css = (struct cgroup_subsys_state GUEST *)host_at(walk->at, depth).css;
	struct list_head GUEST *siblings = &css->children;
	struct list_head GUEST *link = siblings->next;

	if (link != siblings)
		return css_walk_to(walk, depth + 1, siblings, link, host_at(walk->at, depth).serial);
	for (; depth > 0; depth--) {
		css = (struct cgroup_subsys_state GUEST *)host_at(walk->at, depth).css;
		siblings = (struct list_head GUEST *)host_at(walk->at, depth).siblings;
		link = css->sibling.next;
		if (link != siblings)
			return css_walk_to(walk, depth, siblings, link, host_at(walk->at, depth).serial);
	}
	return NULL_GUEST(struct cgroup_subsys_state);
}

#endif
