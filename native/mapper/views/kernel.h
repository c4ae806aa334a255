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

struct net;

struct nsproxy {
	struct net GUEST *net_ns;
};

struct css_set;

struct task_struct {
	char comm[16];
	struct nsproxy GUEST *nsproxy; /* 0: the task is ending */
	struct css_set GUEST *cgroups;
	struct list_head cg_list;
	u64 vtime_snap; /* up to 4.12, where tasks' times are measured instead of counted in ticks */
};

struct rq {
	u64 clock;
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

struct kernfs_node___numbered {
	u64 ino; /* up to 4.13 */
};

enum ___css_flags { CSS_ONLINE GUEST_ENUMERATOR };

struct cgroup;
struct cgroup_root;

struct css_set {
	struct list_head tasks;
	struct list_head cgrp_links;
};

/* A cgroup and a css_set belong to each other. */
struct cgrp_cset_link {
	struct cgroup GUEST *cgrp;
	struct css_set GUEST *cset;
	struct list_head cset_link;
	struct list_head cgrp_link;
};

enum cgroup_subsys_id {
	cpu_cgrp_id GUEST_ENUMERATOR,
	cpuacct_cgrp_id GUEST_ENUMERATOR,
	io_cgrp_id GUEST_ENUMERATOR,
	memory_cgrp_id GUEST_ENUMERATOR,
	pids_cgrp_id GUEST_ENUMERATOR,
};

/* With PREEMPT_RT locks sleep, and name their owner. */
struct rt_mutex_base {
	u64 owner;
};

struct spinlock {
	u32 opaque; /* never read by name: the lock's first word, whatever it is called, is 0 while nobody holds it */
};

struct spinlock___sleeping {
	struct rt_mutex_base lock;
};

struct cgroup_subsys {
	struct spinlock rstat_ss_lock; /* 6.16 and newer */
};

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

typedef u64 cputime_t; /* up to 4.10: in jiffies, or nanoseconds where they are measured */

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

/* --- pressure stall information ------------------------------------------------------------------------------------------ */

enum psi_states {
	PSI_IO_SOME GUEST_ENUMERATOR,
	PSI_IO_FULL GUEST_ENUMERATOR,
	PSI_MEM_SOME GUEST_ENUMERATOR,
	PSI_MEM_FULL GUEST_ENUMERATOR,
	PSI_CPU_SOME GUEST_ENUMERATOR,
	PSI_CPU_FULL GUEST_ENUMERATOR, /* 5.13 and newer */
	PSI_NONIDLE GUEST_ENUMERATOR, /* the last one that lasts */
	NR_PSI_STATES GUEST_ENUMERATOR,
};

/* 5.2 and newer: before, there is one row. */
enum psi_aggregators { PSI_AVGS GUEST_ENUMERATOR };

struct mutex {
	atomic64_t owner;
};

struct mutex___sleeping {
	struct rt_mutex_base rtmutex;
};

enum psi_task_count {
	NR_IOWAIT GUEST_ENUMERATOR,
	NR_MEMSTALL GUEST_ENUMERATOR,
	NR_RUNNING GUEST_ENUMERATOR,
};

struct psi_group_cpu {
	u32 tasks[1];
	u32 state_mask; /* 5.2 and newer */
	u32 times[1];
	u64 state_start;
	u32 times_prev[1]; /* a row for each aggregator; slots know one dimension only */
};

struct psi_group {
	u8 enabled; /* 6.1 and newer */
	struct mutex avgs_lock;
	struct psi_group_cpu GUEST *pcpu;
	u64 total[1]; /* likewise, without the last state */
};

struct psi_group___first {
	struct mutex stat_lock; /* 4.20 to 5.1 */
};

/* --- cgroups, continued ---------------------------------------------------------------------------------------------- */

struct prev_cputime {
	u64 stime;
	u64 utime;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node GUEST *kn;
	struct cgroup_root GUEST *root;
	struct cgroup_subsys_state GUEST *subsys[1];
	struct cgroup_rstat_cpu GUEST *rstat_cpu;
	struct cgroup_rstat_base_cpu GUEST *rstat_base_cpu;
	struct cgroup_base_stat last_bstat;
	struct cgroup_base_stat bstat;
	struct prev_cputime prev_cputime;
	struct list_head cset_links;
	struct psi_group GUEST *psi; /* 6.1 and newer */
};

struct psi_group___sleeping {
	struct mutex___sleeping avgs_lock;
};

struct cgroup___embedded {
	struct psi_group psi; /* 4.20 to 6.0 */
};

/* The names at first, in 4.15 and 4.16. */
struct cgroup_stat {
	struct task_cputime cputime;
	struct prev_cputime prev_cputime;
};

struct cgroup_cpu_stat {
	struct task_cputime cputime;
	struct task_cputime last_cputime;
};

struct cgroup___first {
	struct cgroup_cpu_stat GUEST *cpu_stat;
	struct cgroup_stat pending_stat;
	struct cgroup_stat stat;
};

struct cgroup___pending {
	struct cgroup_base_stat pending_bstat; /* 4.18 to 5.4: what children have handed up */
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

struct cfs_bandwidth___ktime {
	union {
		s64 tv64;
	} period; /* up to 4.9 */
};

struct task_group {
	struct cgroup_subsys_state css;
	u64 shares;
	struct cfs_bandwidth cfs_bandwidth;
};

enum cpu_usage_stat {
	CPUTIME_USER GUEST_ENUMERATOR,
	CPUTIME_NICE GUEST_ENUMERATOR,
	CPUTIME_SYSTEM GUEST_ENUMERATOR,
	CPUTIME_SOFTIRQ GUEST_ENUMERATOR,
	CPUTIME_IRQ GUEST_ENUMERATOR,
};

struct kernel_cpustat {
	u64 cpustat[1];
};

struct cpuacct_usage {
	u64 usages[2];
};

struct cpuacct {
	struct cgroup_subsys_state css;
	u64 GUEST *cpuusage;
	struct kernel_cpustat GUEST *cpustat;
};

struct cpuacct___split {
	struct cpuacct_usage GUEST *cpuusage; /* 4.7 to 5.16 */
};

/* --- the memory controller ------------------------------------------------------------------------------------------- */

enum node_stat_item {
	NR_ANON_MAPPED GUEST_ENUMERATOR,
	NR_FILE_PAGES GUEST_ENUMERATOR,
	NR_SWAPCACHE GUEST_ENUMERATOR,
	NR_INACTIVE_FILE GUEST_ENUMERATOR,
	NR_FILE_MAPPED GUEST_ENUMERATOR,
};

enum memcg_stat_item {
	MEMCG_CACHE GUEST_ENUMERATOR, /* 4.12 to 5.7 */
	MEMCG_RSS GUEST_ENUMERATOR,
	MEMCG_SWAP GUEST_ENUMERATOR, /* of version 1 */
	MEMCG_KMEM GUEST_ENUMERATOR, /* 5.18 and newer */
	MEMCG_NR_STAT GUEST_ENUMERATOR,
};

/* Up to 4.11. */
enum mem_cgroup_stat_index {
	MEM_CGROUP_STAT_CACHE GUEST_ENUMERATOR,
	MEM_CGROUP_STAT_RSS GUEST_ENUMERATOR,
	MEM_CGROUP_STAT_FILE_MAPPED GUEST_ENUMERATOR,
	MEM_CGROUP_STAT_SWAP GUEST_ENUMERATOR,
};

enum memcg_memory_event {
	MEMCG_OOM_KILL GUEST_ENUMERATOR,
	MEMCG_OOM_GROUP_KILL GUEST_ENUMERATOR, /* 5.17 and newer */
};

struct page_counter {
	atomic64_t usage;
	u64 watermark;
	u64 max;
};

/* 3.19 to 4.17 */
struct page_counter___limit {
	atomic64_t count;
	u64 limit;
};

struct memcg_vmstats {
	s64 state[1];
	s64 state_pending[1];
};

struct memcg_vmstats_percpu {
	s64 state[1];
	s64 state_prev[1];
};

enum zone_type { __MAX_NR_ZONES GUEST_ENUMERATOR };

enum lru_list {
	LRU_INACTIVE_FILE GUEST_ENUMERATOR,
	NR_LRU_LISTS GUEST_ENUMERATOR,
};

struct mem_cgroup_per_zone {
	u64 lru_size[1];
};

/* The lengths of LRU lists. */
struct mem_cgroup_per_node {
	struct mem_cgroup_per_zone zoneinfo[1]; /* up to 4.7 */
	u64 lru_size[1];                        /* 4.8 and 4.9 */
	u64 lru_zone_size[1];                   /* 4.10 and newer: a row for each zone */
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap;
	struct page_counter kmem; /* of version 1 */
	u8 kmem_acct_active;      /* up to 4.4: whether it counts, which a limit switches on */
	struct mem_cgroup_per_node GUEST *nodeinfo[1];
	struct memcg_vmstats GUEST *vmstats; /* 6.1 and newer */
	struct memcg_vmstats_percpu GUEST *vmstats_percpu;
	atomic64_t memory_events[1];
};

struct mem_cgroup___embedded {
	struct memcg_vmstats vmstats; /* 5.15 */
};

struct mem_cgroup___array {
	atomic64_t vmstats[1]; /* 5.2 to 5.12 */
};

/* Each cgroup's own, without those below. */
struct mem_cgroup___own_array {
	atomic64_t stat[1]; /* 4.16 to 5.1 */
};

struct mem_cgroup___flat {
	u8 use_hierarchy; /* up to 5.10: whether it counts what those below use */
};

struct mem_cgroup_stat_cpu {
	s64 count[1];
};

struct mem_cgroup___own_per_cpu {
	struct mem_cgroup_stat_cpu GUEST *stat; /* up to 4.15 */
};

/* Records of their own where `memory` and `swap` have other members. */
struct mem_cgroup___limit {
	struct page_counter___limit memory;
	struct page_counter___limit swap;
	struct page_counter___limit kmem;
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

struct backing_dev_info {
	char dev_name[64]; /* "254:0" */
};

struct request_queue {
	struct gendisk GUEST *disk;                          /* 5.15 and newer */
	struct backing_dev_info GUEST *backing_dev_info; /* up to 5.14 */
};

struct blkcg {
	struct cgroup_subsys_state css;
	struct hlist_head blkg_list;
};

struct percpu_counter {
	s64 count;
	u32 GUEST *counters; /* signed, but these only grow */
};

enum blkg_rwstat_type {
	BLKG_RWSTAT_READ GUEST_ENUMERATOR,
	BLKG_RWSTAT_WRITE GUEST_ENUMERATOR,
};

struct blkg_rwstat {
	struct percpu_counter cpu_cnt[1];
	atomic64_t aux_cnt[1];
};

struct blkcg_policy {
	s32 plid;
};

struct blkg_policy_data {
	u64 opaque;
};

struct throtl_grp {
	struct blkg_policy_data pd;
	struct blkg_rwstat stat_bytes;
	struct blkg_rwstat stat_ios;
};

struct blkcg_gq {
	struct request_queue GUEST *q;
	struct hlist_node blkcg_node;
	struct blkg_policy_data GUEST *pd[1];
	u8 online;
	struct blkg_iostat_set GUEST *iostat_cpu;
	struct blkg_iostat_set iostat;
};

struct blkcg_gq___counting {
	struct blkg_rwstat stat_bytes; /* up to 5.4 */
	struct blkg_rwstat stat_ios;
};

/* --- the pids controller --------------------------------------------------------------------------------------------- */

struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic64_t counter;
	atomic64_t limit;
};

/* --- the network ----------------------------------------------------------------------------------------------------- */

struct ns_common {
	u32 inum;
};

struct net {
	struct ns_common ns;
	struct list_head dev_base_head;
};

typedef struct {
	struct net GUEST *net;
} possible_net_t;

/* Types of counters differ between kernels: they are read by their address. */
struct pcpu_lstats {
	u64 packets, bytes;
};

struct pcpu_sw_netstats {
	u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
};

struct pcpu_dstats {
	u64 rx_packets, rx_bytes, rx_drops, tx_packets, tx_bytes, tx_drops;
};

struct vlan_pcpu_stats {
	u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
	u32 rx_errors, tx_dropped;
};

struct net_device_core_stats {
	u64 rx_dropped, tx_dropped;
};

struct net_device_stats {
	u64 rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped;
};

enum netdev_stat_type {
	NETDEV_PCPU_STAT_TSTATS GUEST_ENUMERATOR,
	NETDEV_PCPU_STAT_DSTATS GUEST_ENUMERATOR,
};

struct net_device_ops {
	u64 ndo_get_stats64;
	u64 ndo_get_stats;
};

struct rtnl_link_ops {
	const char GUEST *kind;
};

struct net_device {
	char name[16];
	struct list_head dev_list;
	struct list_head napi_list;
	u32 flags;
	s32 ifindex;
	const struct net_device_ops GUEST *netdev_ops;
	const struct rtnl_link_ops GUEST *rtnl_link_ops; /* 0: hardware, or the loopback device */
	possible_net_t nd_net;
	struct net_device_stats stats;
	struct pcpu_lstats GUEST *lstats;
	struct pcpu_sw_netstats GUEST *tstats;
	struct pcpu_dstats GUEST *dstats;
	u8 pcpu_stat_type;                             /* 6.7 and newer, and some older stable kernels */
	struct net_device_core_stats GUEST *core_stats; /* 5.18 and newer; 0 until something was dropped */
	atomic64_t rx_dropped;                         /* up to 5.17 */
	atomic64_t tx_dropped;
	u8 linkwatch_dev_tracker; /* its size is that of every netdevice_tracker: 0 where they are compiled out */
	u8 priv[1];               /* 6.11 and newer */
};

/* Of drivers that are mostly modules: known from BTF only where they are built in. */
struct macvlan_dev {
	struct vlan_pcpu_stats GUEST *pcpu_stats;
};

GUEST_RECORDS_END

#endif
