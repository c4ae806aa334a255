/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest kernel's records, as far as views read them. Order, offsets and what else is in them is the guest's. Names
 * with ___ are other layouts of the same record (mem_cgroup___embedded is the guest's mem_cgroup): field_exists() tells
 * which one a kernel has.
 */
#ifndef CIEL_VIEWS_KERNEL_H
#define CIEL_VIEWS_KERNEL_H

#include "guest.h"

GUEST_RECORDS_BEGIN

typedef struct {
	s64 counter;
} atomic64_t;

struct list_head {
	struct list_head GUEST *next;
};

struct hlist_node {
	struct hlist_node GUEST *next;
};

struct hlist_head {
	struct hlist_node GUEST *first;
};

/* --- kernel/ --------------------------------------------------------------------------------------------------------- */

struct cpumask {
	u64 bits[1];
};

struct task_struct {
	char comm[16];
};

struct new_utsname {
	char nodename[65];
	char release[65];
	char version[65];
};

struct uts_namespace {
	struct new_utsname name;
};

/* --- cgroups --------------------------------------------------------------------------------------------------------- */

struct kernfs_node {
	const char GUEST *name;
	u64 id; /* 5.5 and newer */
};

struct kernfs_node___with_union {
	union {
		u64 id;
	} id; /* 4.14 to 5.4 */
};

enum ___css_flags { CSS_ONLINE GUEST_ENUMERATOR };

enum cgroup_subsys_id {
	cpu_cgrp_id GUEST_ENUMERATOR,
	io_cgrp_id GUEST_ENUMERATOR,
	memory_cgrp_id GUEST_ENUMERATOR,
	pids_cgrp_id GUEST_ENUMERATOR,
};

struct spinlock {
	u32 opaque; /* never read by name: the lock's first word, whatever it is called, is 0 while nobody holds it */
};

struct cgroup_subsys {
	struct spinlock rstat_ss_lock; /* 6.16 and newer */
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup GUEST *cgroup;
	struct cgroup_subsys GUEST *ss;
	struct list_head sibling;
	struct list_head children;
	u64 flags;
	u64 serial_nr;
};

struct task_cputime {
	u64 stime;
	u64 utime;
	u64 sum_exec_runtime;
};

struct cgroup_base_stat {
	struct task_cputime cputime;
};

struct cgroup_rstat_cpu {
	struct cgroup_base_stat bstat;
	struct cgroup_base_stat last_bstat;
};

/* From 6.16 on the base statistics are a per-CPU record of their own. */
struct cgroup_rstat_base_cpu {
	struct cgroup_base_stat bstat;
	struct cgroup_base_stat last_bstat;
};

struct prev_cputime {
	u64 stime;
	u64 utime;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node GUEST *kn;
	struct cgroup_subsys_state GUEST *subsys[1];
	struct cgroup_rstat_cpu GUEST *rstat_cpu;
	struct cgroup_rstat_base_cpu GUEST *rstat_base_cpu;
	struct cgroup_base_stat last_bstat;
	struct cgroup_base_stat bstat;
	struct prev_cputime prev_cputime;
};

struct cgroup_root {
	struct cgroup cgrp;
};

/* --- the cpu controller ---------------------------------------------------------------------------------------------- */

struct cfs_bandwidth {
	s64 period;
	u64 quota;
	s64 nr_periods;
	s64 nr_throttled;
	u64 throttled_time;
};

struct task_group {
	struct cgroup_subsys_state css;
	struct cfs_bandwidth cfs_bandwidth;
};

/* --- the memory controller ------------------------------------------------------------------------------------------- */

enum node_stat_item {
	NR_ANON_MAPPED GUEST_ENUMERATOR,
	NR_FILE_PAGES GUEST_ENUMERATOR,
	NR_SWAPCACHE GUEST_ENUMERATOR,
	NR_INACTIVE_FILE GUEST_ENUMERATOR,
};

enum memcg_stat_item { MEMCG_NR_STAT GUEST_ENUMERATOR };

struct page_counter {
	atomic64_t usage;
	u64 max;
};

struct page_counter___atomic_limit {
	u64 limit; /* up to 4.17 */
};

struct memcg_vmstats {
	s64 state[1];
	s64 state_pending[1];
};

struct memcg_vmstats_percpu {
	s64 state[1];
	s64 state_prev[1];
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap;
	struct memcg_vmstats GUEST *vmstats; /* 6.1 and newer */
	struct memcg_vmstats_percpu GUEST *vmstats_percpu;
};

struct mem_cgroup___embedded {
	struct memcg_vmstats vmstats; /* 5.15 */
};

struct mem_cgroup___array {
	atomic64_t vmstats[1]; /* 5.10 */
};

/* --- the io controller ----------------------------------------------------------------------------------------------- */

enum blkg_iostat_type {
	BLKG_IOSTAT_READ GUEST_ENUMERATOR,
	BLKG_IOSTAT_WRITE GUEST_ENUMERATOR,
};

struct blkg_iostat {
	u64 bytes[1];
	u64 ios[1];
};

struct blkg_iostat_set {
	struct blkg_iostat cur;
	struct blkg_iostat last;
};

struct gendisk {
	s32 major;
	s32 first_minor;
	char disk_name[32];
};

struct request_queue {
	struct gendisk GUEST *disk; /* 5.15 and newer */
};

struct blkcg {
	struct cgroup_subsys_state css;
	struct hlist_head blkg_list;
};

struct blkcg_gq {
	struct request_queue GUEST *q;
	struct hlist_node blkcg_node;
	u8 online;
	struct blkg_iostat_set GUEST *iostat_cpu;
	struct blkg_iostat_set iostat;
};

/* --- the pids controller --------------------------------------------------------------------------------------------- */

struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic64_t counter;
};

GUEST_RECORDS_END

#endif
