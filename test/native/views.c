/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The views on a made-up guest: a small cgroup tree, laid out as no real kernel does, with a g_map() that lets the guest
 * act between any two loads.
 *
 * So flushes are tried exhaustively: one that happens as a whole before each load, and one that stops half-way — after
 * each of its stores, before each load — and goes on before each later load. Whatever happens, a figure is exact or is
 * said to have changed.
 *
 * Layouts of kernels that no guest here has are laid out by what their sources say: 4.4 to 5.4, and tables of indices that
 * are wider than any so far. Nothing of these was seen in a real guest.
 */
#include "made-up-guest.h"
#include "memory/source.h"
#include "record.h"

/* --- the guest's layout ---------------------------------------------------------------------------------------------- */

enum { CPUS = 2, PER_CPU_STRIDE = 0x800, ONLINE = 1 << 7, ITEMS = 4 };

struct css {
	u32 flags;
	u64 serial;
	struct list children, sibling;
	u64 cgroup, ss;
};
struct times {
	u64 usage, stime, utime;
};
struct cgroup {
	u64 kn, root, rstat_cpu, rstat_base_cpu;
	u64 subsys[6];
	struct times last_bstat, bstat, shown;
	struct times pending; /* older kernels */
	struct css self;
};
struct rstat_cpu {
	struct times last, now;
};
struct counters { /* memcg_vmstats */
	u64 pending[ITEMS], state[ITEMS];
};
struct counters_cpu { /* memcg_vmstats_percpu */
	u64 previous[ITEMS], state[ITEMS];
};
struct memory {
	u64 usage, max, peak, swap, vmstats, vmstats_percpu, events[4];
	u64 own[ITEMS], own_per_cpu, node; /* older kernels */
	struct css css;
};
struct iostat {
	u64 ios[2], bytes[2];
};
struct iostats {
	struct iostat last, now;
};
struct rwstat { /* older kernels */
	struct {
		u64 count, counters;
	} by_direction[2];
	u64 aux[2];
};
struct group { /* blkcg_gq */
	u64 queue, node, iostat_cpu;
	uint8_t online;
	struct iostats iostat;
	struct rwstat bytes, transfers;
};
struct accounts { /* cpuacct */
	u64 usage, ticks;
	struct css css;
};
struct io {
	u64 first;
	struct css css;
};
struct disk {
	u32 minor, major;
	char name[32];
};
struct tasks {
	u64 limit, count;
	struct css css;
};

enum { ZONES = 2, LISTS = 3, INACTIVE_FILE = 2 };
enum { MEMORY = 3, IO = 1, PIDS = 4, CPU = 2, CPUACCT = 5 };
enum { READ = 1, WRITE = 0 };

static const struct fact layout[] = {
	OFFSET("cgroup", "kn", cgroup, kn),
	OFFSET("cgroup", "root", cgroup, root),
	OFFSET("cgroup", "rstat_cpu", cgroup, rstat_cpu),
	OFFSET("cgroup", "subsys[0]", cgroup, subsys[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "cgroup", "subsys", 8, 0 },
	OFFSET("cgroup", "last_bstat.cputime", cgroup, last_bstat),
	OFFSET("cgroup", "bstat.cputime", cgroup, bstat),
	OFFSET("cgroup", "prev_cputime", cgroup, shown),
	OFFSET("prev_cputime", "utime", times, utime),
	OFFSET("prev_cputime", "stime", times, stime),
	OFFSET("cgroup", "self", cgroup, self),
	OFFSET("cgroup", "self.serial_nr", cgroup, self.serial),
	OFFSET("cgroup_root", "cgrp", cgroup, kn),
	OFFSET("cgroup_root", "cgrp.self", cgroup, self),
	OFFSET("cgroup_root", "cgrp.self.cgroup", cgroup, self.cgroup),
	OFFSET("cgroup_subsys_state", "flags", css, flags),
	OFFSET("cgroup_subsys_state", "serial_nr", css, serial),
	OFFSET("cgroup_subsys_state", "children", css, children),
	OFFSET("cgroup_subsys_state", "children.next", css, children.next),
	OFFSET("cgroup_subsys_state", "sibling", css, sibling),
	OFFSET("cgroup_subsys_state", "sibling.next", css, sibling.next),
	OFFSET("cgroup_subsys_state", "cgroup", css, cgroup),
	OFFSET("task_cputime", "sum_exec_runtime", times, usage),
	OFFSET("task_cputime", "utime", times, utime),
	OFFSET("task_cputime", "stime", times, stime),
	OFFSET("cgroup_rstat_cpu", "bstat.cputime", rstat_cpu, now),
	OFFSET("cgroup_rstat_cpu", "last_bstat.cputime", rstat_cpu, last),
	OFFSET("kernfs_node", "id", list, previous),
	OFFSET("kernfs_node", "name", list, next),
	OFFSET("mem_cgroup", "css", memory, css),
	OFFSET("mem_cgroup", "memory.usage.counter", memory, usage),
	OFFSET("mem_cgroup", "memory.max", memory, max),
	OFFSET("mem_cgroup", "memory.watermark", memory, peak),
	OFFSET("mem_cgroup", "memory_events[0].counter", memory, events[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "mem_cgroup", "memory_events", 8, 0 },
	OFFSET("mem_cgroup", "swap.usage.counter", memory, swap),
	OFFSET("mem_cgroup", "vmstats", memory, vmstats),
	OFFSET("mem_cgroup", "vmstats_percpu", memory, vmstats_percpu),
	OFFSET("memcg_vmstats", "state[0]", counters, state[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "memcg_vmstats", "state", 8, 0 },
	OFFSET("memcg_vmstats", "state_pending[0]", counters, pending[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "memcg_vmstats", "state_pending", 8, 0 },
	OFFSET("memcg_vmstats_percpu", "state[0]", counters_cpu, state[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "memcg_vmstats_percpu", "state", 8, 0 },
	OFFSET("memcg_vmstats_percpu", "state_prev[0]", counters_cpu, previous[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "memcg_vmstats_percpu", "state_prev", 8, 0 },
	OFFSET("blkcg", "css", io, css),
	OFFSET("blkcg", "blkg_list.first", io, first),
	OFFSET("blkcg_gq", "q", group, queue),
	OFFSET("blkcg_gq", "blkcg_node", group, node),
	OFFSET("blkcg_gq", "online", group, online),
	OFFSET("blkcg_gq", "iostat_cpu", group, iostat_cpu),
	OFFSET("blkcg_gq", "iostat.cur", group, iostat.now),
	OFFSET("blkcg_gq", "iostat.last", group, iostat.last),
	OFFSET("blkg_iostat_set", "cur", iostats, now),
	OFFSET("blkg_iostat_set", "last", iostats, last),
	OFFSET("blkg_iostat", "bytes[0]", iostat, bytes[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "blkg_iostat", "bytes", 8, 0 },
	OFFSET("blkg_iostat", "ios[0]", iostat, ios[0]),
	{ CIEL_SLOT_ELEMENT_SIZE, "blkg_iostat", "ios", 8, 0 },
	{ CIEL_SLOT_FIELD_OFFSET, "hlist_node", "next", 0, 8 },
	{ CIEL_SLOT_FIELD_OFFSET, "request_queue", "disk", 0, 8 },
	OFFSET("gendisk", "major", disk, major),
	OFFSET("gendisk", "first_minor", disk, minor),
	OFFSET("gendisk", "disk_name[0]", disk, name[0]),
	OFFSET("pids_cgroup", "css", tasks, css),
	OFFSET("pids_cgroup", "counter.counter", tasks, count),
	OFFSET("pids_cgroup", "limit.counter", tasks, limit),
	{ CIEL_SLOT_FIELD_OFFSET, "task_struct", "comm[0]", 0, 1 },
	{ CIEL_SLOT_FIELD_OFFSET, "uts_namespace", "name.nodename[0]", 0, 1 },
	{ CIEL_SLOT_FIELD_OFFSET, "uts_namespace", "name.release[0]", 65, 1 },
	{ CIEL_SLOT_FIELD_OFFSET, "uts_namespace", "name.version[0]", 130, 1 },
	{ CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats", 1, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "blkcg_gq", "iostat_cpu", 1, 0 },
	{ CIEL_SLOT_FIELD_SIZE, "memcg_vmstats", "state", ITEMS * 8, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "cgroup", "rstat_base_cpu", 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "request_queue", "disk", 1, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "cgroup_subsys", "rstat_ss_lock", 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "kernfs_node", "id.id", 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats.state", 0, 0 },
	{ CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats[0].counter", 0, 0 },
	{ CIEL_SLOT_TYPE_SIZE, "cpumask", "", 16, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "", "CSS_ONLINE", ONLINE, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "cgroup_subsys_id", "cpu_cgrp_id", CPU, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "cgroup_subsys_id", "memory_cgrp_id", MEMORY, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "cgroup_subsys_id", "io_cgrp_id", IO, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "cgroup_subsys_id", "pids_cgrp_id", PIDS, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "blkg_iostat_type", "BLKG_IOSTAT_READ", READ, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "blkg_iostat_type", "BLKG_IOSTAT_WRITE", WRITE, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "node_stat_item", "NR_ANON_MAPPED", 2, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "node_stat_item", "NR_FILE_PAGES", 0, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "node_stat_item", "NR_SWAPCACHE", 3, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "node_stat_item", "NR_INACTIVE_FILE", 1, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "memcg_stat_item", "MEMCG_NR_STAT", ITEMS, 0 },
	{ CIEL_SLOT_ENUM_VALUE, "memcg_memory_event", "MEMCG_OOM_KILL", 3, 0 },
};

/* --- the guest's memory ---------------------------------------------------------------------------------------------- */

/* One cgroup with all its controllers. The per-CPU parts are those of CPU 0; CPU 1's are PER_CPU_STRIDE further. */
struct family {
	struct cgroup cgroup;
	struct memory memory;
	struct counters counters;
	struct io io;
	struct group group;
	struct tasks tasks;
	struct accounts accounts;
	u64 lists[ZONES * LISTS]; /* older kernels: lengths by zone */
	struct list kernfs;
	char name[40];
};
struct per_cpu {
	struct rstat_cpu rstat[3];
	struct counters_cpu counters[3];
	struct iostats iostats[3];
	struct { /* older kernels */
		u64 items[ITEMS], usage[2], ticks[5];
		u32 io[4];
	} older[3];
	uint8_t unused[PER_CPU_STRIDE -
		       3 * (sizeof(struct rstat_cpu) + sizeof(struct counters_cpu) + sizeof(struct iostats) + 13 * 8)];
};
_Static_assert(sizeof(struct per_cpu) == PER_CPU_STRIDE, "the offset of a CPU");

enum { ROOT, TOP, CHILD, FAMILIES };

static struct guest {
	struct family family[FAMILIES];
	struct per_cpu per_cpu[CPUS];
	struct disk disk;
	u64 queue;
	u64 per_cpu_offset[128], possible_mask[2];
	u32 nr_cpu_ids, lock;
	u64 jiffies, tick;
	char task[16], names[195];
	uint8_t table[4 * ITEMS];
	struct cgroup v1_root;
} guest __attribute__((aligned(4096)));

/* --- older layouts ------------------------------------------------------------------------------------------------------ */

static void field(const char *record, const char *path, u64 offset)
{
	*slot(CIEL_SLOT_FIELD_OFFSET, record, path) = (struct ciel_slot){ .value = offset, .size = 8, .available = 1 };
}

static void array(const char *record, const char *path, const char *first, u64 offset, u64 stride)
{
	field(record, first, offset);
	*slot(CIEL_SLOT_ELEMENT_SIZE, record, path) = (struct ciel_slot){ .value = stride, .available = 1 };
}

static void exists(u32 kind, const char *record, const char *path, u64 value)
{
	*slot(kind, record, path) = (struct ciel_slot){ .value = value, .available = 1 };
}

static void missing(const char *record, const char *path)
{
	slot(CIEL_SLOT_FIELD_OFFSET, record, path)->available = 0;
}

static void enumerator(const char *type, const char *name, u64 value)
{
	exists(CIEL_SLOT_ENUM_VALUE, type, name, value);
	for (u32 i = 0; i < ciel_view_slot_count; i++)
		if (ciel_view_slots[i].kind == CIEL_SLOT_ENUM_EXISTS && !strcmp(ciel_view_slots[i].path, name))
			slots[i] = (struct ciel_slot){ .value = 1, .available = 1 };
}

/* 4.18 to 5.4: what a flush hands up waits in the parent's pending_bstat. */
static int is_pending;

static void lay_out_pending(void)
{
	exists(CIEL_SLOT_FIELD_EXISTS, "cgroup", "pending_bstat", 1);
	field("cgroup", "pending_bstat.cputime", offsetof(struct cgroup, pending));
	missing("cgroup", "last_bstat.cputime");
}

/* 4.15 to 4.17: the same, and all of it has other names. */
static int has_first_names;

static void lay_out_first_names(void)
{
	static const char *const later[][2] = { { "cgroup", "bstat.cputime" },
						{ "cgroup", "last_bstat.cputime" },
						{ "cgroup", "prev_cputime" },
						{ "cgroup_rstat_cpu", "bstat.cputime" },
						{ "cgroup_rstat_cpu", "last_bstat.cputime" } };

	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		missing(later[i][0], later[i][1]);
	exists(CIEL_SLOT_FIELD_EXISTS, "cgroup", "cpu_stat", 1);
	field("cgroup", "cpu_stat", offsetof(struct cgroup, rstat_cpu));
	field("cgroup", "stat.cputime", offsetof(struct cgroup, bstat));
	field("cgroup", "stat.prev_cputime", offsetof(struct cgroup, shown));
	field("cgroup", "pending_stat.cputime", offsetof(struct cgroup, pending));
	field("cgroup_cpu_stat", "cputime", offsetof(struct rstat_cpu, now));
	field("cgroup_cpu_stat", "last_cputime", offsetof(struct rstat_cpu, last));
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "cgroup_rstat_lock")->value = 0;
	symbol("cgroup_stat_mutex", &guest.lock);
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "cgroup_stat_mutex")->value = 1;
}

/* --- a fresh guest --------------------------------------------------------------------------------------------------- */

static struct view_kernel kernel;

static void link_css(struct css *css, struct css *parent, struct cgroup *cgroup, u64 serial)
{
	css->flags = ONLINE;
	css->serial = serial;
	css->cgroup = at(cgroup);
	/* Lists run through their `next` members' record: a list_head begins where `previous` is. */
	css->children.next = at(&css->children);
	css->sibling.next = parent ? at(&parent->children) : 0;
	if (parent)
		parent->children.next = at(&css->sibling);
}

static void set_up(void)
{
	make_up(&guest, sizeof(guest), layout, sizeof(layout) / sizeof(layout[0]));
	/* A list_head pointer points at the whole record; its `next` is behind `previous`. */
	*slot(CIEL_SLOT_FIELD_OFFSET, "cgroup_subsys_state", "children.next") =
		(struct ciel_slot){ .value = offsetof(struct css, children.next), .size = 8, .available = 1 };

	symbol("cgrp_dfl_root", &guest.family[ROOT].cgroup);
	symbol("init_task", guest.task);
	symbol("init_uts_ns", guest.names);
	symbol("jiffies_64", &guest.jiffies);
	symbol("__cpu_possible_mask", guest.possible_mask);
	symbol("__per_cpu_offset", guest.per_cpu_offset);
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "__per_cpu_offset")->value = 1;
	symbol("cgroup_rstat_lock", &guest.lock);
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "cgroup_rstat_lock")->value = 1;
	if (has_first_names)
		lay_out_first_names();
	else if (is_pending)
		lay_out_pending();
	strcpy(guest.task, "swapper/0");
	strcpy(guest.names, "node");
	strcpy(guest.names + 65, "6.1.0-made-up");
	strcpy(guest.names + 130, "#1");
	guest.jiffies = 4294937296;
	guest.possible_mask[0] = 1ull << 1 | 1ull << 63; /* CPUs 1 and 63: numbers have gaps */
	guest.per_cpu_offset[63] = PER_CPU_STRIDE;
	memset(guest.per_cpu_offset, 0xee, 8); /* CPU 0 is impossible: junk */

	static const char *const names[] = { "", "docker", "0123456789abcdef" };
	for (int i = 0; i < FAMILIES; i++) {
		struct family *family = &guest.family[i], *parent = i ? &guest.family[i - 1] : NULL;
		u64 serial = i ? 100 + (u64)i * 10 : 0;

		strcpy(family->name, names[i]);
		family->kernfs = (struct list){ .previous = 1000 + (u64)i, .next = at(family->name) };
		family->cgroup.kn = at(&family->kernfs);
		family->cgroup.root = at(&guest.family[ROOT].cgroup);
		family->cgroup.rstat_cpu = at(&guest.per_cpu[0].rstat[i]);
		family->cgroup.subsys[MEMORY] = at(&family->memory.css);
		family->cgroup.subsys[IO] = at(&family->io.css);
		family->cgroup.subsys[PIDS] = at(&family->tasks.css);
		family->cgroup.subsys[CPUACCT] = at(&family->accounts.css);
		family->memory.vmstats = at(&family->counters);
		family->memory.vmstats_percpu = at(&guest.per_cpu[0].counters[i]);
		family->io.first = at(&family->group.node);
		family->group.queue = at(&guest.queue);
		family->group.iostat_cpu = at(&guest.per_cpu[0].iostats[i]);
		family->group.online = 1;
		link_css(&family->cgroup.self, parent ? &parent->cgroup.self : NULL, &family->cgroup, serial);
		link_css(&family->memory.css, parent ? &parent->memory.css : NULL, &family->cgroup, serial + 1);
		link_css(&family->io.css, parent ? &parent->io.css : NULL, &family->cgroup, serial + 2);
		link_css(&family->tasks.css, parent ? &parent->tasks.css : NULL, &family->cgroup, serial + 3);
		link_css(&family->accounts.css, parent ? &parent->accounts.css : NULL, &family->cgroup, serial + 4);
	}
	guest.queue = at(&guest.disk);
	guest.disk = (struct disk){ .major = 254, .minor = 16, .name = "vdb" };
	CHECK_EQUAL(view_kernel(&kernel), 0);
	loads = refreshes = 0;
}

/* Counts that are flushed in part; on every CPU of top and child. */
static void count(void)
{
	for (int cpu = 0; cpu < CPUS; cpu++) {
		for (int i = TOP; i <= CHILD; i++) {
			u64 n = 1000 * (u64)(cpu + 1) + 100 * (u64)i;
			struct per_cpu *here = &guest.per_cpu[cpu];

			here->rstat[i].now = (struct times){ n + 7, n / 3, n / 2 };
			here->rstat[i].last = (struct times){ n, n / 3 - 5, n / 2 - 3 };
			for (int item = 0; item < ITEMS; item++) {
				here->counters[i].state[item] = n + 9 - 2 * (u64)item;
				here->counters[i].previous[item] = n;
			}
			here->iostats[i].now = (struct iostat){ { n + 1, n + 2 }, { n * 512, n * 1024 } };
			here->iostats[i].last = (struct iostat){ { n, n }, { n * 512 - 512, n * 1024 - 4096 } };
		}
	}
	guest.family[TOP].cgroup.bstat = (struct times){ 50000, 20000, 30000 };
	guest.family[CHILD].cgroup.bstat = (struct times){ 4000, 1500, 2500 };
	guest.family[CHILD].cgroup.last_bstat = (struct times){ 3900, 1480, 2420 }; /* 100 not handed up yet */
	guest.family[TOP].cgroup.pending = (struct times){ 100, 20, 80 };
	for (int item = 0; item < ITEMS; item++) {
		guest.family[TOP].counters.state[item] = 5000 + (u64)item;
		guest.family[TOP].counters.pending[item] = 3;
		guest.family[CHILD].counters.pending[item] = 2;
	}
	guest.family[TOP].group.iostat.now = (struct iostat){ { 70, 80 }, { 700000, 800000 } };
	guest.family[CHILD].group.iostat.now = (struct iostat){ { 20, 30 }, { 200000, 300000 } };
	guest.family[CHILD].group.iostat.last = (struct iostat){ { 19, 29 }, { 199000, 299000 } };
}

enum { USAGE = 50000 + 100 + 4 * 7 };
static const u64 ANON_PAGES = 5000 + 2 + 3 + 2 + 4 * (9 - 2 * 2);
static const u64 READ_BYTES = 800000 + 1000 + 4 * 4096, WRITES = 70 + 1 + 4 * 1;

/* --- a flush, store by store ----------------------------------------------------------------------------------------- */

struct store {
	u64 *to, amount;
};
static struct store stores[256];
static u32 store_count;

static void store(u64 *to, u64 amount)
{
	stores[store_count++] = (struct store){ to, amount };
}

/* The stores of cgroup_base_stat_flush(), mem_cgroup_css_rstat_flush() and blkcg_rstat_flush(), in their order. */
static void plan_flush(void)
{
	u64 pending[ITEMS], times_up = 100, bytes_up = 1000, handed_up = 0;

	store_count = 0;
	for (int item = 0; item < ITEMS; item++)
		pending[item] = 2;
	for (int cpu = 0; cpu < CPUS; cpu++) {
		struct per_cpu *here = &guest.per_cpu[cpu];
		for (int i = CHILD; i >= TOP; i--) {
			struct family *family = &guest.family[i], *top = &guest.family[TOP];
			u64 delta = here->rstat[i].now.usage - here->rstat[i].last.usage;

			store(&here->rstat[i].last.usage, delta);
			store(&family->cgroup.bstat.usage, delta + (is_pending && i == TOP ? handed_up : 0));
			if (is_pending && i == CHILD) {
				handed_up = delta + times_up;
				store(&top->cgroup.pending.usage, delta);
				times_up = 0;
			} else if (is_pending) {
				store(&top->cgroup.pending.usage, -handed_up);
			} else if (i == CHILD) {
				store(&top->cgroup.bstat.usage, delta + times_up);
				store(&family->cgroup.last_bstat.usage, delta + times_up);
				times_up = 0;
			}
			for (int item = 0; item < ITEMS; item++) {
				u64 change = here->counters[i].state[item] - here->counters[i].previous[item];
				u64 handed = i == CHILD ? pending[item] : 3 * (cpu == 0);

				if (i == TOP) /* what the child has handed up in this pass is pending, too */
					handed += here->counters[CHILD].state[item] - here->counters[CHILD].previous[item] +
						  (cpu == 0 ? 2 : 0);
				store(&family->counters.pending[item], -handed);
				store(&here->counters[i].previous[item], change);
				store(&family->counters.state[item], change + handed);
				if (i == CHILD)
					store(&top->counters.pending[item], change + handed);
			}
			delta = here->iostats[i].now.bytes[READ] - here->iostats[i].last.bytes[READ];
			store(&family->group.iostat.now.bytes[READ], delta);
			store(&here->iostats[i].last.bytes[READ], delta);
			if (i == CHILD) {
				store(&top->group.iostat.now.bytes[READ], delta + bytes_up);
				store(&family->group.iostat.last.bytes[READ], delta + bytes_up);
				bytes_up = 0;
			}
		}
		for (int item = 0; item < ITEMS; item++)
			pending[item] = 0;
	}
}

static u32 begin_at, stop_after, resume_at;

static void flush_from_to(u32 from, u32 to)
{
	for (u32 i = from; i < to; i++)
		*stores[i].to += stores[i].amount;
}

static void flush_in_two(u32 number)
{
	if (number == begin_at) {
		guest.lock = 1;
		flush_from_to(0, stop_after);
	}
	if (number == resume_at) {
		flush_from_to(stop_after, store_count);
		guest.lock = 0;
	}
}

/* --- the tests ------------------------------------------------------------------------------------------------------- */

static struct view_cpu cpu;
static struct view_memory memory;
static struct view_io io;

static int read_cpu(void)
{
	CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu), 0);
	CHECK_EQUAL(view_cpu_finish(&kernel, &cpu), 0);
	if (cpu.usage.status == 0)
		CHECK_EQUAL(cpu.usage.value, USAGE);
	return cpu.usage.status;
}

static int read_memory(void)
{
	CHECK_EQUAL(view_cgroup_memory(at(&guest.family[TOP].cgroup), 110, &kernel, 0, &memory), 0);
	CHECK_EQUAL(view_memory_finish(&kernel, &memory), 0);
	if (memory.anon.status == 0)
		CHECK_EQUAL(memory.anon.value, ANON_PAGES * 4096);
	return memory.anon.status;
}

static int read_io(void)
{
	CHECK_EQUAL(view_cgroup_io(at(&guest.family[TOP].cgroup), 110, &kernel, &io), 0);
	CHECK_EQUAL(view_io_finish(&kernel, &io), 0);
	if (io.read_bytes.status == 0)
		CHECK_EQUAL(io.read_bytes.value, READ_BYTES);
	return io.read_bytes.status;
}

static void test_flushes(int (*read)(void))
{
	u32 needed, torn = 0, exact = 0;

	set_up();
	count();
	CHECK_EQUAL(read(), 0);
	needed = loads;
	/* The plan itself is right: what it leaves behind reads the same. */
	set_up();
	count();
	plan_flush();
	flush_from_to(0, store_count);
	CHECK_EQUAL(read(), 0);

	/* At once: the reading is repeated and exact. */
	for (u32 i = 0; i <= needed; i++) {
		set_up();
		count();
		plan_flush();
		begin_at = resume_at = i;
		stop_after = store_count;
		before_load = flush_in_two;
		CHECK_EQUAL(read(), 0);
	}
	/* In two parts. `needed` loads are one attempt: later ones repeat. */
	for (u32 i = 0; i <= needed; i += 1 + needed / 64) {
		for (u32 j = i + 1; j <= needed + 8; j += 1 + needed / 48) {
			for (u32 k = 0; k <= store_count; k += 1 + store_count / 64) {
				set_up();
				count();
				plan_flush();
				begin_at = i;
				resume_at = j;
				stop_after = k;
				before_load = flush_in_two;
				int status = read();
				CHECK(status == 0 || status == CIEL_VIEW_CHANGED);
				*(status ? &torn : &exact) += 1;
			}
		}
	}
	CHECK(exact > torn);
}

static void test_parts(void)
{
	set_up();
	count();
	CHECK_EQUAL(read_cpu(), 0);
	CHECK(refreshes >= 2); /* staged pages would compare with themselves */
	CHECK_EQUAL(cpu.per_cpu.value, 2);
	CHECK_EQUAL(cpu.by_cpu[0], 1000 + 100 + 7 + 1000 + 200 + 7);
	CHECK_EQUAL(cpu.user.value + cpu.system.value, USAGE);
	/* The cpu controller is not enabled here. */
	CHECK_EQUAL(cpu.quota.status, VIEW_NOT_ACCOUNTED);

	guest.family[TOP].memory.usage = 77;
	guest.family[TOP].memory.max = INT64_MAX / 4096;
	guest.family[TOP].memory.peak = 99;
	guest.family[TOP].memory.events[3] = 2;
	CHECK_EQUAL(read_memory(), 0);
	CHECK_EQUAL(memory.peak.value, 99 * 4096);
	CHECK_EQUAL(memory.oom_kills.value, 2);
	CHECK_EQUAL(memory.current.value, 77 * 4096);
	CHECK_EQUAL(memory.limit.status, VIEW_NOT_LIMITED);
	CHECK_EQUAL(memory.file.value, (5000 + 0 + 3 + 2 + 4 * 9) * 4096);

	CHECK_EQUAL(read_io(), 0);
	CHECK_EQUAL(io.writes.value, WRITES);
	CHECK_EQUAL(io.device_count, 1);
	CHECK_EQUAL(io.devices[0].major, 254);
	CHECK(!strcmp(io.devices[0].name, "vdb"));

	struct view_pids tasks;
	guest.family[TOP].tasks.count = 12;
	guest.family[TOP].tasks.limit = 50;
	CHECK_EQUAL(view_cgroup_pids(at(&guest.family[TOP].cgroup), 110, &tasks), 0);
	CHECK_EQUAL(tasks.current.value, 12);
	CHECK_EQUAL(tasks.limit.value, 50);
	guest.family[TOP].tasks.limit = 4 * 1024 * 1024 + 1;
	CHECK_EQUAL(view_cgroup_pids(at(&guest.family[TOP].cgroup), 110, &tasks), 0);
	CHECK_EQUAL(tasks.limit.status, VIEW_NOT_LIMITED);
}

static void test_unavailable(void)
{
	/* One field missing costs its figure only, and is named. */
	set_up();
	count();
	slot(CIEL_SLOT_FIELD_OFFSET, "mem_cgroup", "swap.usage.counter")->available = 0;
	CHECK_EQUAL(read_memory(), 0);
	CHECK_EQUAL(memory.swap.status, CIEL_VIEW_NO_SLOT);
	CHECK(!strcmp(ciel_view_slots[memory.swap.slot].path, "swap.usage.counter"));
	CHECK_EQUAL(memory.current.status, 0);
	/* A fault costs the figures behind it. */
	guest.family[TOP].memory.vmstats = 0xdead;
	CHECK_EQUAL(read_memory(), CIEL_VIEW_FAULT);
	CHECK_EQUAL(memory.current.status, 0);
	/* No controller. */
	guest.family[TOP].cgroup.subsys[MEMORY] = 0;
	CHECK_EQUAL(read_memory(), VIEW_NOT_ACCOUNTED);
	CHECK_EQUAL(memory.current.status, VIEW_NOT_ACCOUNTED);
	/* Another cgroup's controller: a stale pointer. */
	guest.family[TOP].cgroup.subsys[MEMORY] = at(&guest.family[CHILD].memory.css);
	CHECK_EQUAL(read_memory(), CIEL_VIEW_CHANGED);
}

static void remove_top(u32 number)
{
	if (number == 30)
		guest.family[TOP].cgroup.self.flags = 0;
}

static void test_identity(void)
{
	set_up();
	count();
	CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 111, &kernel, &cpu), CIEL_VIEW_CHANGED);
	before_load = remove_top;
	CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu), CIEL_VIEW_CHANGED);
	CHECK(loads > 30);
}

/* Items 0, 2 and 3 are at 0, 2 and 1; item 1 is missing. */
static void lay_out_table(u32 width, u32 first)
{
	static const u32 positions[ITEMS] = { 0, 0, 2, 1 };

	memset(guest.table, 0, sizeof(guest.table));
	for (u32 i = 0; i < ITEMS; i++) {
		u32 entry = i == 1 ? (first ? 0 : 0xffffffff) : positions[i] + first;
		memcpy(guest.table + i * width, &entry, width);
	}
}

static void test_kernel(void)
{
	struct view_proof proof;

	set_up();
	CHECK_EQUAL(view_prove(&proof), 0);
	CHECK(!strcmp(proof.first_task, "swapper/0") && !strcmp(proof.release, "6.1.0-made-up"));
	CHECK_EQUAL(proof.jiffies, 4294937296);
	strcpy(guest.task, "systemd");
	CHECK_EQUAL(view_prove(&proof), CIEL_VIEW_CHANGED);
	strcpy(guest.task, "swapper");
	guest.family[ROOT].cgroup.self.cgroup++;
	CHECK_EQUAL(view_prove(&proof), CIEL_VIEW_CHANGED);

	CHECK_EQUAL(kernel.cpu_count, 2);
	CHECK_EQUAL(kernel.cpu[1], 63);
	CHECK_EQUAL(kernel.offset[1], PER_CPU_STRIDE);
	CHECK_EQUAL(kernel.anon_item.value, 2);
	/* The compacted table, in both encodings. */
	symbol("mem_cgroup_stats_index", guest.table);
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "mem_cgroup_stats_index")->value = 1;
	slot(CIEL_SLOT_FIELD_SIZE, "memcg_vmstats", "state")->value = 3 * 8;
	for (u32 width = 1; width <= 4; width *= 2) {
		for (u32 first = 0; first < 2; first++) {
			lay_out_table(width, first);
			CHECK_EQUAL(view_kernel(&kernel), 0);
			CHECK_EQUAL(kernel.anon_item.value, 2);
			CHECK_EQUAL(kernel.file_item.value, 0);
			CHECK_EQUAL(kernel.swap_cache_item.value, 1);
			CHECK_EQUAL(kernel.inactive_file_item.status, VIEW_NOT_ACCOUNTED);
		}
	}
	/* A table that has a position twice is none that is known: no figure rather than a neighbour's. */
	lay_out_table(1, 0);
	guest.table[2] = guest.table[3];
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(kernel.anon_item.status, CIEL_VIEW_CHANGED);
	lay_out_table(1, 0);
	guest.possible_mask[0] = 0;
	CHECK_EQUAL(view_kernel(&kernel), CIEL_VIEW_CHANGED);

	/* Offsets that are missed from a kernel for several CPUs are no reason to believe in one CPU. */
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "__per_cpu_offset")->value = 0;
	slot(CIEL_SLOT_SYMBOL, "", "__per_cpu_offset")->available = 0;
	exists(CIEL_SLOT_FIELD_EXISTS, "percpu_counter", "counters", 1);
	CHECK_EQUAL(view_kernel(&kernel), CIEL_VIEW_NO_SLOT);
	exists(CIEL_SLOT_FIELD_EXISTS, "percpu_counter", "counters", 0);
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(kernel.cpu_count, 1);
	CHECK_EQUAL(kernel.cpu[0], 0);
	CHECK_EQUAL(kernel.offset[0], 0);
}

/* Layouts of other kernels, as far as they are made up of the same parts. */
static void test_other_layouts(void)
{
	/* 6.16: base statistics in a record of their own. */
	set_up();
	count();
	slot(CIEL_SLOT_FIELD_EXISTS, "cgroup", "rstat_base_cpu")->value = 1;
	*slot(CIEL_SLOT_FIELD_OFFSET, "cgroup", "rstat_base_cpu") =
		(struct ciel_slot){ .value = offsetof(struct cgroup, rstat_base_cpu), .size = 8, .available = 1 };
	*slot(CIEL_SLOT_FIELD_OFFSET, "cgroup_rstat_base_cpu", "bstat.cputime") = *slot(CIEL_SLOT_FIELD_OFFSET, "cgroup_rstat_cpu", "bstat.cputime");
	*slot(CIEL_SLOT_FIELD_OFFSET, "cgroup_rstat_base_cpu", "last_bstat.cputime") =
		*slot(CIEL_SLOT_FIELD_OFFSET, "cgroup_rstat_cpu", "last_bstat.cputime");
	for (int i = 0; i < FAMILIES; i++) {
		guest.family[i].cgroup.rstat_base_cpu = guest.family[i].cgroup.rstat_cpu;
		guest.family[i].cgroup.rstat_cpu = 0xdead;
	}
	CHECK_EQUAL(read_cpu(), 0);

	/* 5.15: vmstats is part of the mem_cgroup. Here its counters are laid over the pointer's place. */
	set_up();
	count();
	slot(CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats.state")->value = 1;
	slot(CIEL_SLOT_FIELD_OFFSET, "mem_cgroup", "vmstats")->value =
		(u64)(offsetof(struct family, counters) - offsetof(struct family, memory));
	CHECK_EQUAL(read_memory(), 0);

	/* 5.10: an array, shown as it is. */
	set_up();
	count();
	slot(CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats[0].counter")->value = 1;
	*slot(CIEL_SLOT_FIELD_OFFSET, "mem_cgroup", "vmstats[0].counter") =
		(struct ciel_slot){ .value = offsetof(struct family, counters.state) - offsetof(struct family, memory),
				    .size = 8,
				    .available = 1 };
	*slot(CIEL_SLOT_ELEMENT_SIZE, "mem_cgroup", "vmstats") = (struct ciel_slot){ .value = 8, .available = 1 };
	CHECK_EQUAL(view_cgroup_memory(at(&guest.family[TOP].cgroup), 110, &kernel, 0, &memory), 0);
	CHECK_EQUAL(view_memory_finish(&kernel, &memory), 0);
	CHECK_EQUAL(memory.anon.value, 5002 * 4096);
}

static void read_memory_of(u64 pages_of_anon, u64 pages_of_file)
{
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(view_cgroup_memory(at(&guest.family[TOP].cgroup), 110, &kernel, 1, &memory), 0);
	CHECK_EQUAL(view_memory_finish(&kernel, &memory), 0);
	CHECK_EQUAL(memory.current.value, 77 * 4096);
	CHECK_EQUAL(memory.limit.value, 100 * 4096);
	CHECK_EQUAL(memory.anon.value, pages_of_anon * 4096);
	CHECK_EQUAL(memory.file.value, pages_of_file * 4096);
	CHECK_EQUAL(memory.inactive_file.value, (12 + 13 + 22 + 23) * 4096);
}

/* Up to 5.1 each memory cgroup counts its own pages, in one array or by CPU; up to 4.17 page counters have other names. */
static void test_older_memory(void)
{
	for (int is_array = 0; is_array < 2; is_array++) {
		set_up();
		missing("mem_cgroup", "vmstats");
		exists(CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats", 0);
		exists(CIEL_SLOT_TYPE_EXISTS, "mem_cgroup_stat_cpu", "", 1);
		missing("mem_cgroup", "memory.usage.counter");
		missing("mem_cgroup", "memory.max");
		exists(CIEL_SLOT_FIELD_EXISTS, "page_counter", "limit", 1);
		field("mem_cgroup", "memory.count.counter", offsetof(struct memory, usage));
		field("mem_cgroup", "memory.limit", offsetof(struct memory, max));
		guest.family[TOP].memory.usage = 77;
		guest.family[TOP].memory.max = 100;
		for (int i = TOP; i <= CHILD; i++) {
			guest.family[i].memory.own_per_cpu = at(guest.per_cpu[0].older[i].items);
			guest.family[i].memory.node = at(guest.family[i].lists);
			guest.family[i].lists[INACTIVE_FILE] = (u64)(10 * i + 2);
			guest.family[i].lists[LISTS + INACTIVE_FILE] = (u64)(10 * i + 3);
			for (int item = 0; item < ITEMS; item++) {
				guest.family[i].memory.own[item] = (u64)(1000 * i + item);
				for (int cpu_number = 0; cpu_number < CPUS; cpu_number++)
					guest.per_cpu[cpu_number].older[i].items[item] = (u64)(100 * i + item + cpu_number);
			}
		}
		array("mem_cgroup", "nodeinfo", "nodeinfo[0]", offsetof(struct memory, node), 8);
		array("mem_cgroup_per_node", "lru_zone_size", "lru_zone_size[0]", 0, 8);
		enumerator("zone_type", "__MAX_NR_ZONES", ZONES);
		enumerator("lru_list", "NR_LRU_LISTS", LISTS);
		enumerator("lru_list", "LRU_INACTIVE_FILE", INACTIVE_FILE);
		/* The node's items of the same names are counted elsewhere then. */
		if (is_array) {
			enumerator("memcg_stat_item", "MEMCG_RSS", 1);
			enumerator("memcg_stat_item", "MEMCG_CACHE", 3);
			exists(CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "stat[0].counter", 1);
			array("mem_cgroup", "stat", "stat[0].counter", offsetof(struct memory, own), 8);
			read_memory_of(1001 + 2001, 1003 + 2003);
		} else {
			enumerator("mem_cgroup_stat_index", "MEM_CGROUP_STAT_RSS", 1);
			enumerator("mem_cgroup_stat_index", "MEM_CGROUP_STAT_CACHE", 0);
			enumerator("mem_cgroup_stat_index", "MEM_CGROUP_STAT_FILE_MAPPED", 2);
			field("mem_cgroup", "stat", offsetof(struct memory, own_per_cpu));
			array("mem_cgroup_stat_cpu", "count", "count[0]", 0, 8);
			read_memory_of(101 + 102 + 201 + 202, 100 + 101 + 200 + 201);
			CHECK_EQUAL(memory.mapped.value, (102 + 103 + 202 + 203) * 4096);
		}
	}

	/* 5.2 to 5.7: vmstats, but of MEMCG_RSS. */
	set_up();
	count();
	exists(CIEL_SLOT_FIELD_EXISTS, "mem_cgroup", "vmstats[0].counter", 1);
	array("mem_cgroup", "vmstats", "vmstats[0].counter", offsetof(struct memory, own), 8);
	guest.family[TOP].memory.own[1] = 11;
	guest.family[TOP].memory.own[2] = 22;
	enumerator("memcg_stat_item", "MEMCG_RSS", 1);
	enumerator("memcg_stat_item", "MEMCG_CACHE", 3);
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(view_cgroup_memory(at(&guest.family[TOP].cgroup), 110, &kernel, 0, &memory), 0);
	CHECK_EQUAL(view_memory_finish(&kernel, &memory), 0);
	CHECK_EQUAL(memory.anon.value, 11 * 4096);
}

/* Up to 5.4 block I/O is counted in the blkcg_gq, mostly by CPU, and io.stat sums that up. */
static void test_older_io(void)
{
	static const char *const stats[] = { "stat_bytes", "stat_ios" };

	set_up();
	exists(CIEL_SLOT_FIELD_EXISTS, "blkcg_gq", "iostat_cpu", 0);
	missing("blkcg_gq", "iostat_cpu");
	exists(CIEL_SLOT_FIELD_EXISTS, "blkcg_gq", "stat_bytes", 1);
	field("blkcg_gq", stats[0], offsetof(struct group, bytes));
	field("blkcg_gq", stats[1], offsetof(struct group, transfers));
	array("blkg_rwstat", "cpu_cnt", "cpu_cnt[0].count", offsetof(struct rwstat, by_direction[0].count), 16);
	exists(CIEL_SLOT_FIELD_EXISTS, "percpu_counter", "counters", 1);
	field("blkg_rwstat", "cpu_cnt[0].counters", offsetof(struct rwstat, by_direction[0].counters));
	array("blkg_rwstat", "aux_cnt", "aux_cnt[0].counter", offsetof(struct rwstat, aux), 8);
	enumerator("blkg_rwstat_type", "BLKG_RWSTAT_READ", 0);
	enumerator("blkg_rwstat_type", "BLKG_RWSTAT_WRITE", 1);
	for (int i = TOP; i <= CHILD; i++) {
		struct rwstat *both[] = { &guest.family[i].group.bytes, &guest.family[i].group.transfers };

		for (u32 which = 0; which < 2; which++) {
			for (u32 direction = 0; direction < 2; direction++) {
				both[which]->by_direction[direction].count = 1000 * (which + 1);
				both[which]->by_direction[direction].counters =
					at(&guest.per_cpu[0].older[i].io[which * 2 + direction]);
				both[which]->aux[direction] = 100;
				for (u32 cpu_number = 0; cpu_number < CPUS; cpu_number++)
					guest.per_cpu[cpu_number].older[i].io[which * 2 + direction] = cpu_number + direction;
			}
		}
	}
	CHECK_EQUAL(view_cgroup_io(at(&guest.family[TOP].cgroup), 110, &kernel, &io), 0);
	CHECK_EQUAL(view_io_finish(&kernel, &io), 0);
	CHECK_EQUAL(io.read_bytes.value, 2 * (1000 + 100 + 0 + 1));
	CHECK_EQUAL(io.write_bytes.value, 2 * (1000 + 100 + 1 + 2));
	CHECK_EQUAL(io.reads.value, 2 * (2000 + 100 + 0 + 1));
	/* A kernel for one CPU has nothing but the common counter. */
	exists(CIEL_SLOT_FIELD_EXISTS, "percpu_counter", "counters", 0);
	CHECK_EQUAL(view_cgroup_io(at(&guest.family[TOP].cgroup), 110, &kernel, &io), 0);
	CHECK_EQUAL(view_io_finish(&kernel, &io), 0);
	CHECK_EQUAL(io.read_bytes.value, 2 * (1000 + 100));
}

/* Version 1's CPU time: one number a CPU, or two. */
static void set_up_older_cpu(int is_split)
{
	static const char *const ticks[] = { "CPUTIME_USER", "CPUTIME_NICE", "CPUTIME_SYSTEM", "CPUTIME_SOFTIRQ", "CPUTIME_IRQ" };
	struct accounts *accounts = &guest.family[TOP].accounts;

	set_up();
	guest.family[TOP].cgroup.root = at(&guest.v1_root);
	exists(CIEL_SLOT_TYPE_EXISTS, "cpuacct_usage", "", (u64)is_split);
	enumerator("cgroup_subsys_id", "cpuacct_cgrp_id", CPUACCT);
	field("cpuacct", "css", offsetof(struct accounts, css));
	field("cpuacct", "cpuusage", offsetof(struct accounts, usage));
	field("cpuacct", "cpustat", offsetof(struct accounts, ticks));
	field("cpuacct_usage", "usages[0]", 0);
	field("cpuacct_usage", "usages[1]", 8);
	array("kernel_cpustat", "cpustat", "cpustat[0]", 0, 8);
	for (u64 i = 0; i < 5; i++)
		enumerator("cpu_usage_stat", ticks[i], i);
	accounts->usage = at(guest.per_cpu[0].older[TOP].usage);
	accounts->ticks = at(guest.per_cpu[0].older[TOP].ticks);
	for (u64 cpu_number = 0; cpu_number < CPUS; cpu_number++) {
		memcpy(guest.per_cpu[cpu_number].older[TOP].usage, (u64[]){ 5000 + cpu_number, 300 }, 16);
		memcpy(guest.per_cpu[cpu_number].older[TOP].ticks, (u64[]){ 1000, 20, 300, 4, 5 }, 40);
	}
}

static void test_older_cpu(void)
{
	for (int is_split = 0; is_split < 2; is_split++) {
		set_up_older_cpu(is_split);
		CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu), 0);
		CHECK_EQUAL(view_cpu_finish(&kernel, &cpu), 0);
		CHECK_EQUAL(cpu.usage.value, 10001 + (is_split ? 600 : 0));
		CHECK_EQUAL(cpu.by_cpu[1], 5001 + (is_split ? 300 : 0));
		CHECK_EQUAL(cpu.user.value, 2 * 1020);
		CHECK_EQUAL(cpu.system.value, 2 * 309);
	}
	/* Up to 4.10 in jiffies, here of 1/250 s; tick_nsec is adjusted to the true time. */
	set_up_older_cpu(0);
	exists(CIEL_SLOT_TYPE_EXISTS, "cputime_t", "", 1);
	symbol("tick_nsec", &guest.tick);
	guest.tick = 3999984;
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu), 0);
	CHECK_EQUAL(view_cpu_finish(&kernel, &cpu), 0);
	CHECK_EQUAL(cpu.user.value, 2 * 1020 * 4000000ull);
	CHECK_EQUAL(cpu.usage.value, 10001);
	guest.tick = 0;
	CHECK_EQUAL(view_kernel(&kernel), 0);
	CHECK_EQUAL(view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu), 0);
	CHECK_EQUAL(view_cpu_finish(&kernel, &cpu), 0);
	CHECK_EQUAL(cpu.user.status, CIEL_VIEW_CHANGED);
}

/* Up to 4.13 a cgroup's directory has a number of 32 bits. */
static void test_older_tree(void)
{
	struct view_cgroup list[FAMILIES];
	u64 listed;

	set_up();
	exists(CIEL_SLOT_FIELD_EXISTS, "kernfs_node", "ino", 1);
	*slot(CIEL_SLOT_FIELD_OFFSET, "kernfs_node", "ino") = (struct ciel_slot){ .size = 4, .available = 1 };
	missing("kernfs_node", "id");
	guest.family[TOP].kernfs.previous = 0xffffffff00000000 | 77;
	CHECK_EQUAL(view_cgroups(at(&guest.family[ROOT].cgroup), list, FAMILIES, &listed), 0);
	CHECK_EQUAL(list[1].id, 77);
}

static void test_tree(void)
{
	struct view_cgroup list[FAMILIES];
	u64 listed;

	set_up();
	CHECK_EQUAL(view_cgroups(at(&guest.family[ROOT].cgroup), list, FAMILIES, &listed), 0);
	CHECK_EQUAL(listed, 3);
	CHECK(!strcmp(list[2].name, "0123456789abcdef"));
	CHECK_EQUAL(list[2].parent, 1);
	CHECK_EQUAL(list[2].depth, 2);
	CHECK_EQUAL(list[2].id, 1002);
	CHECK_EQUAL(list[2].serial, 120);
	CHECK_EQUAL(list[2].is_online, 1);
	/* No room: what fits is good. */
	CHECK_EQUAL(view_cgroups(at(&guest.family[ROOT].cgroup), list, 2, &listed), CIEL_VIEW_LIMIT);
	CHECK_EQUAL(listed, 2);

	/* Circles: the child is its own sibling; the child's child is the top; the top is its own child. */
	for (int i = 0; i < 3; i++) {
		set_up();
		struct css *top = &guest.family[TOP].cgroup.self, *child = &guest.family[CHILD].cgroup.self;
		if (i == 0)
			child->sibling.next = at(&child->sibling);
		else
			(i == 1 ? child : top)->children.next = at(&top->sibling);
		CHECK_EQUAL(view_cgroups(at(&guest.family[ROOT].cgroup), list, FAMILIES, &listed), CIEL_VIEW_CHANGED);
		CHECK(context.fuel > 99000);
		CHECK_EQUAL(view_cgroup_cpu(at(top), 110, &kernel, &cpu), CIEL_VIEW_CHANGED);
	}

	/* A list of devices without end. */
	set_up();
	guest.family[TOP].group.node = at(&guest.family[TOP].group.node);
	CHECK_EQUAL(view_cgroup_io(at(&guest.family[TOP].cgroup), 110, &kernel, &io), CIEL_VIEW_FUEL);
}

/* --- repeats --------------------------------------------------------------------------------------------------------- */

static struct ciel_layout whole = { .count = 1 };
static struct ciel_space space = { .layout = &whole, .direct_start = BASE };

/* Runs a view once while it is recorded. NULL: it cannot be repeated. */
static struct ciel_recording *record(int (*read)(void), void *answer, size_t bytes)
{
	struct ciel_recording *recording;

	if (!space.source) {
		struct ciel_error error;
		u64 size = (sizeof(guest) + 4095) & ~4095ull; /* static, aligned: the page's rest is ours */
		CHECK_EQUAL(ciel_source_open_array((const uint8_t *)&guest, size, &space.source, &error), CIEL_OK);
		whole.ranges[0] = (struct ciel_range){ .size = size };
		space.direct_end = BASE + size;
	}
	memset(answer, 0, bytes);
	ciel_record_begin(&context, &space, answer, bytes);
	CHECK_EQUAL(read(), 0);
	recording = ciel_record_end(&context);
	return recording;
}

static int repeat(const struct ciel_recording *recording, void *answer, size_t bytes)
{
	memset(answer, 0, bytes);
	return ciel_recording_repeat(recording, (const uint8_t *)&guest, answer);
}

/* Views as they are recorded: without what is worked out of their sums. */
static int raw_cpu(void)
{
	return view_cgroup_cpu(at(&guest.family[TOP].cgroup), 110, &kernel, &cpu);
}
static int raw_memory(void)
{
	return view_cgroup_memory(at(&guest.family[TOP].cgroup), 110, &kernel, 0, &memory);
}
static int raw_io(void)
{
	return view_cgroup_io(at(&guest.family[TOP].cgroup), 110, &kernel, &io);
}

/* A repeat says what a walk says: after counts, at each store of a flush, and after it. */
static void test_repeat(int (*read)(void), void *answer, size_t bytes)
{
	static uint8_t repeated[8192];
	struct ciel_recording *recording;

	CHECK(bytes <= sizeof(repeated));
	set_up();
	count();
	recording = record(read, answer, bytes);
	CHECK(recording && recording->term_count > 0 && recording->check_count > 0);
	CHECK(repeat(recording, repeated, bytes));
	CHECK(!memcmp(answer, repeated, bytes));
	plan_flush();
	for (u32 i = 0; i < store_count; i++) {
		*stores[i].to += stores[i].amount;
		CHECK(repeat(recording, repeated, bytes));
		CHECK(!memcmp(answer, repeated, bytes));
	}
	for (int cpu_number = 0; cpu_number < CPUS; cpu_number++) {
		for (int i = TOP; i <= CHILD; i++) {
			struct per_cpu *here = &guest.per_cpu[cpu_number];
			here->rstat[i].now.usage += 5;
			here->counters[i].state[2] -= 3;
			here->iostats[i].now.bytes[READ] += 512;
		}
	}
	guest.family[TOP].memory.usage = 99;
	guest.family[TOP].cgroup.shown.utime = 3;
	CHECK(repeat(recording, repeated, bytes));
	memset(answer, 0, bytes);
	CHECK_EQUAL(read(), 0);
	CHECK(!memcmp(answer, repeated, bytes));

	/* The same again is the same recording. */
	struct ciel_recording *again = record(read, answer, bytes);
	CHECK(again && ciel_recording_equals(recording, again));
	free(again);
	free(recording);
}

/* Whatever the view's way depended on ends the recording. */
static void test_checks(int (*read)(void), void *answer, size_t bytes, u64 *what, u64 becomes)
{
	struct ciel_recording *recording;
	static uint8_t repeated[8192];
	u64 before;

	set_up();
	count();
	recording = record(read, answer, bytes);
	CHECK(recording != NULL);
	before = *what;
	*what = becomes;
	CHECK(!repeat(recording, repeated, bytes));
	*what = before;
	CHECK(repeat(recording, repeated, bytes));
	free(recording);
}

static void test_unrepeatable(void)
{
	/* A flush came between. */
	for (u32 i = 1; i < 40; i += 13) {
		set_up();
		count();
		plan_flush();
		begin_at = resume_at = i;
		stop_after = store_count;
		before_load = flush_in_two;
		struct ciel_recording *recording = record(raw_cpu, &cpu, sizeof(cpu));
		if (recording) {
			static struct view_cpu repeated;
			CHECK(repeat(recording, &repeated, sizeof(repeated)));
			CHECK(!memcmp(&cpu, &repeated, sizeof(cpu)));
		}
		free(recording);
	}
	/* A fault that was tolerated may be gone the next time; a field that is missing is missing for good. */
	set_up();
	count();
	guest.family[TOP].memory.vmstats = 0xdead;
	CHECK(!record(raw_memory, &memory, sizeof(memory)));
	set_up();
	count();
	slot(CIEL_SLOT_FIELD_OFFSET, "mem_cgroup", "swap.usage.counter")->available = 0;
	struct ciel_recording *recording = record(raw_memory, &memory, sizeof(memory));
	CHECK(recording != NULL);
	static struct view_memory repeated;
	CHECK(repeat(recording, &repeated, sizeof(repeated)));
	CHECK_EQUAL(repeated.swap.status, CIEL_VIEW_NO_SLOT);
	CHECK_EQUAL(repeated.swap.slot, memory.swap.slot);
	free(recording);
}

/* Of version 1: what has grown since it was recorded shows, in the sum and by CPU. */
static void test_older_cpu_repeats(void)
{
	for (int is_split = 0; is_split < 2; is_split++) {
		set_up_older_cpu(is_split);
		struct ciel_recording *recording = record(raw_cpu, &cpu, sizeof(cpu));
		CHECK(recording);
		if (!recording)
			continue;
		guest.per_cpu[1].older[TOP].usage[0] += 7;
		CHECK_EQUAL(repeat(recording, &cpu, sizeof(cpu)), 1);
		CHECK_EQUAL(view_cpu_finish(&kernel, &cpu), 0);
		CHECK_EQUAL(cpu.by_cpu[1], 5008 + (is_split ? 300 : 0));
		CHECK_EQUAL(cpu.usage.value, 10008 + (is_split ? 600 : 0));
		/* Its counters are elsewhere now. */
		guest.family[TOP].accounts.usage += 8;
		CHECK_EQUAL(repeat(recording, &cpu, sizeof(cpu)), 0);
		free(recording);
	}
}

static void test_repeats(void)
{
	test_repeat(raw_cpu, &cpu, sizeof(cpu));
	test_repeat(raw_memory, &memory, sizeof(memory));
	test_repeat(raw_io, &io, sizeof(io));
	test_checks(raw_cpu, &cpu, sizeof(cpu), &guest.family[TOP].cgroup.self.serial, 111);
	test_checks(raw_cpu, &cpu, sizeof(cpu), &guest.family[CHILD].cgroup.self.children.next, 0);
	test_checks(raw_cpu, &cpu, sizeof(cpu), &guest.family[TOP].cgroup.self.children.next, 0);
	test_checks(raw_cpu, &cpu, sizeof(cpu), &guest.family[CHILD].cgroup.rstat_cpu, 0);
	test_checks(raw_memory, &memory, sizeof(memory), &guest.family[TOP].cgroup.subsys[MEMORY], 0);
	test_checks(raw_memory, &memory, sizeof(memory), &guest.family[TOP].memory.max, 4096);
	test_checks(raw_io, &io, sizeof(io), &guest.family[CHILD].group.iostat_cpu, 0);
	test_checks(raw_io, &io, sizeof(io), &guest.family[TOP].io.first, 0);
	test_unrepeatable();
	is_pending = 1;
	test_repeat(raw_cpu, &cpu, sizeof(cpu));
	has_first_names = 1;
	test_repeat(raw_cpu, &cpu, sizeof(cpu));
	is_pending = has_first_names = 0;
	ciel_source_destroy(space.source);
}

int main(void)
{
	if (ciel_view_slot_count > sizeof(slots) / sizeof(slots[0]))
		return 1;
	test_parts();
	test_unavailable();
	test_identity();
	test_kernel();
	test_other_layouts();
	test_older_memory();
	test_older_io();
	test_older_cpu();
	test_older_tree();
	test_tree();
	test_repeats();
	test_older_cpu_repeats();
	test_flushes(read_cpu);
	test_flushes(read_memory);
	test_flushes(read_io);
	is_pending = 1;
	test_flushes(read_cpu);
	has_first_names = 1;
	test_flushes(read_cpu);
	printf("ok: views read a made-up guest\n");
	return 0;
}
