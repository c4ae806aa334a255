/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The views of pressure and of networks on a made-up guest, laid out as no real kernel does, with a g_map() that lets the
 * guest act before any load: take times over, change a state, move a device away.
 */
#include "made-up-guest.h"

/* --- the guest's layout ---------------------------------------------------------------------------------------------- */

enum { CPUS = 2, ONLINE = 1 << 7, SERIAL = 110, TICK = 4000000 };

struct css {
	u32 flags;
	u64 serial, cgroup;
	struct list children, sibling;
};
struct cgroup {
	u64 psi;
	struct list links;
	struct css self;
};
enum { CPU_SOME, IO_FULL, MEMORY_SOME, CPU_FULL, IO_SOME, MEMORY_FULL, BUSY, STATES }; /* as this kernel numbers them */
struct psi {
	uint8_t enabled;
	u64 lock, pcpu, total[2 * (STATES - 1)];
};
struct psi_cpu {
	u64 start;
	u32 mask, times[STATES], taken[2 * STATES];
};
struct link { /* cgrp_cset_link */
	u64 set;
	struct list list;
	u64 cgroup;
};
struct set { /* css_set */
	u64 unused;
	struct list tasks;
};
struct task {
	u64 set, nsproxy;
	struct list list;
};
struct net {
	u32 inode;
	struct list devices;
};
struct device_stats {
	u64 tx_packets, rx_packets, tx_bytes, rx_bytes, rx_dropped, tx_dropped, rx_errors, tx_errors;
};
struct device {
	char name[16];
	u64 net, operations, kind, per_cpu, core;
	struct list list, napi;
	u32 flags, index;
	uint8_t where;
	struct device_stats stats;
	u64 private[12]; /* behind the record, at the next multiple of 32 */
};
struct operations {
	u64 get_stats64, get_stats;
};
struct counts { /* of all per-CPU records */
	u64 rx_bytes, rx_packets, tx_bytes, tx_packets, rx_drops, tx_drops;
	u32 errors, dropped;
};

#define ARRAY(record, path, type, member)                \
	OFFSET(record, path "[0]", type, member[0]),     \
	{ CIEL_SLOT_ELEMENT_SIZE, record, path, sizeof(((struct type *)0)->member[0]), 0 }
/* A counter that a view reads by its address. */
#define COUNTER(record, path, member)              \
	OFFSET(record, path, counts, member),      \
	{ CIEL_SLOT_FIELD_SIZE, record, path, 8, 0 }
#define ENUM(name, enumerator, value) { CIEL_SLOT_ENUM_VALUE, name, enumerator, value, 0 }
#define EXISTS(record, path) { CIEL_SLOT_FIELD_EXISTS, record, path, 1, 0 }

static const struct fact layout[] = {
	OFFSET("cgroup", "psi", cgroup, psi),
	OFFSET("cgroup", "cset_links", cgroup, links),
	OFFSET("cgroup", "cset_links.next", cgroup, links.next),
	OFFSET("cgroup", "self", cgroup, self),
	OFFSET("cgroup", "self.serial_nr", cgroup, self.serial),
	OFFSET("cgroup_subsys_state", "flags", css, flags),
	OFFSET("cgroup_subsys_state", "serial_nr", css, serial),
	OFFSET("cgroup_subsys_state", "children", css, children),
	OFFSET("cgroup_subsys_state", "children.next", css, children.next),
	OFFSET("cgroup_subsys_state", "sibling", css, sibling),
	OFFSET("cgroup_subsys_state", "sibling.next", css, sibling.next),
	OFFSET("list_head", "next", list, next),
	ENUM("", "CSS_ONLINE", ONLINE),

	EXISTS("psi_group", "enabled"),
	OFFSET("psi_group", "enabled", psi, enabled),
	OFFSET("psi_group", "avgs_lock.owner.counter", psi, lock),
	OFFSET("psi_group", "pcpu", psi, pcpu),
	ARRAY("psi_group", "total", psi, total),
	OFFSET("psi_group_cpu", "state_start", psi_cpu, start),
	EXISTS("psi_group_cpu", "state_mask"),
	OFFSET("psi_group_cpu", "state_mask", psi_cpu, mask),
	{ CIEL_SLOT_TYPE_EXISTS, "psi_aggregators", "", 1, 0 },
	ARRAY("psi_group_cpu", "times", psi_cpu, times),
	ARRAY("psi_group_cpu", "times_prev", psi_cpu, taken),
	{ CIEL_SLOT_FIELD_OFFSET, "rq", "clock", 0, 8 },
	ENUM("psi_states", "PSI_IO_SOME", IO_SOME),
	ENUM("psi_states", "PSI_IO_FULL", IO_FULL),
	ENUM("psi_states", "PSI_MEM_SOME", MEMORY_SOME),
	ENUM("psi_states", "PSI_MEM_FULL", MEMORY_FULL),
	ENUM("psi_states", "PSI_CPU_SOME", CPU_SOME),
	ENUM("psi_states", "PSI_CPU_FULL", CPU_FULL),
	{ CIEL_SLOT_ENUM_EXISTS, "psi_states", "PSI_CPU_FULL", 1, 0 },
	ENUM("psi_states", "PSI_NONIDLE", BUSY),
	ENUM("psi_states", "NR_PSI_STATES", STATES),
	ENUM("psi_aggregators", "PSI_AVGS", 1), /* the second row, here */

	OFFSET("cgrp_cset_link", "cgrp", link, cgroup),
	OFFSET("cgrp_cset_link", "cset", link, set),
	OFFSET("cgrp_cset_link", "cset_link", link, list),
	OFFSET("css_set", "tasks", set, tasks),
	OFFSET("css_set", "tasks.next", set, tasks.next),
	OFFSET("task_struct", "cgroups", task, set),
	OFFSET("task_struct", "nsproxy", task, nsproxy),
	OFFSET("task_struct", "cg_list", task, list),
	{ CIEL_SLOT_FIELD_OFFSET, "nsproxy", "net_ns", 0, 8 },
	OFFSET("net", "ns.inum", net, inode),
	OFFSET("net", "dev_base_head", net, devices),
	OFFSET("net", "dev_base_head.next", net, devices.next),

	OFFSET("net_device", "name[0]", device, name[0]),
	OFFSET("net_device", "dev_list", device, list),
	OFFSET("net_device", "napi_list", device, napi),
	OFFSET("net_device", "napi_list.next", device, napi.next),
	OFFSET("net_device", "flags", device, flags),
	OFFSET("net_device", "ifindex", device, index),
	OFFSET("net_device", "netdev_ops", device, operations),
	OFFSET("net_device", "rtnl_link_ops", device, kind),
	OFFSET("net_device", "nd_net.net", device, net),
	OFFSET("net_device", "lstats", device, per_cpu),
	OFFSET("net_device", "tstats", device, per_cpu),
	OFFSET("net_device", "dstats", device, per_cpu),
	EXISTS("net_device", "pcpu_stat_type"),
	OFFSET("net_device", "pcpu_stat_type", device, where),
	EXISTS("net_device", "core_stats"),
	OFFSET("net_device", "core_stats", device, core),
	OFFSET("net_device", "stats.rx_bytes", device, stats.rx_bytes),
	OFFSET("net_device", "stats.rx_packets", device, stats.rx_packets),
	OFFSET("net_device", "stats.rx_errors", device, stats.rx_errors),
	OFFSET("net_device", "stats.rx_dropped", device, stats.rx_dropped),
	OFFSET("net_device", "stats.tx_bytes", device, stats.tx_bytes),
	OFFSET("net_device", "stats.tx_packets", device, stats.tx_packets),
	OFFSET("net_device", "stats.tx_errors", device, stats.tx_errors),
	OFFSET("net_device", "stats.tx_dropped", device, stats.tx_dropped),
	EXISTS("net_device", "priv"),
	OFFSET("net_device", "priv", device, private),
	OFFSET("net_device_ops", "ndo_get_stats64", operations, get_stats64),
	OFFSET("net_device_ops", "ndo_get_stats", operations, get_stats),
	{ CIEL_SLOT_FIELD_OFFSET, "rtnl_link_ops", "kind", 0, 8 },
	ENUM("netdev_stat_type", "NETDEV_PCPU_STAT_TSTATS", 2),
	ENUM("netdev_stat_type", "NETDEV_PCPU_STAT_DSTATS", 3),
	COUNTER("pcpu_lstats", "bytes", tx_bytes),
	COUNTER("pcpu_lstats", "packets", tx_packets),
	COUNTER("pcpu_sw_netstats", "rx_bytes", rx_bytes),
	COUNTER("pcpu_sw_netstats", "rx_packets", rx_packets),
	COUNTER("pcpu_sw_netstats", "tx_bytes", tx_bytes),
	COUNTER("pcpu_sw_netstats", "tx_packets", tx_packets),
	COUNTER("pcpu_dstats", "rx_bytes", rx_bytes),
	COUNTER("pcpu_dstats", "rx_packets", rx_packets),
	COUNTER("pcpu_dstats", "rx_drops", rx_drops),
	COUNTER("pcpu_dstats", "tx_bytes", tx_bytes),
	COUNTER("pcpu_dstats", "tx_packets", tx_packets),
	COUNTER("pcpu_dstats", "tx_drops", tx_drops),
	COUNTER("vlan_pcpu_stats", "rx_bytes", rx_bytes),
	COUNTER("vlan_pcpu_stats", "rx_packets", rx_packets),
	COUNTER("vlan_pcpu_stats", "tx_bytes", tx_bytes),
	COUNTER("vlan_pcpu_stats", "tx_packets", tx_packets),
	OFFSET("vlan_pcpu_stats", "rx_errors", counts, errors),
	OFFSET("vlan_pcpu_stats", "tx_dropped", counts, dropped),
	COUNTER("net_device_core_stats", "rx_dropped", rx_drops),
	COUNTER("net_device_core_stats", "tx_dropped", tx_drops),
};

/* --- the guest's memory ---------------------------------------------------------------------------------------------- */

enum { TOP, CHILD, CGROUPS };
enum { LOOPBACK, VETH, PEER, MACVLAN, TUNNEL, NIC, DEVICES };

struct per_cpu {
	struct psi_cpu psi;
	u64 clock;
	struct counts counts[DEVICES], core;
};

static struct guest {
	struct cgroup cgroup[CGROUPS];
	struct psi psi;
	struct per_cpu per_cpu[CPUS];
	u64 tick;
	struct link link;
	struct set set;
	struct task ending, task;
	u64 nsproxy;
	struct net net, initial, elsewhere;
	struct device devices[DEVICES];
	struct operations asks_driver, asks_nobody, asks_core;
	u64 kinds[DEVICES], port;
	char names[DEVICES][16];
	uint8_t function;
} guest;

void g_record(uint64_t address, uint32_t size, uint32_t is_signed, uint64_t value)
{
	(void)address, (void)size, (void)is_signed, (void)value;
}

/* --- a fresh guest --------------------------------------------------------------------------------------------------- */

static struct view_kernel kernel;
static struct view_pressure pressure;
static struct view_network network;

static void add_to(struct list *head, struct list *entry)
{
	struct list *last = head;

	while (last->next != at(head))
		last = (struct list *)((uint8_t *)&guest + (last->next - BASE));
	last->next = at(entry);
	entry->next = at(head);
}

static void set_up_device(u32 number, struct net *net, const char *name, const char *kind, struct operations *operations)
{
	struct device *device = &guest.devices[number];

	strcpy(device->name, name);
	device->index = number + 1;
	device->net = at(net);
	device->napi.next = at(&device->napi);
	device->operations = at(operations);
	device->per_cpu = at(&guest.per_cpu[0].counts[number]);
	strcpy(guest.names[number], kind);
	guest.kinds[number] = at(guest.names[number]);
	device->kind = *kind ? at(&guest.kinds[number]) : 0;
	for (u32 cpu = 0; cpu < CPUS; cpu++)
		guest.per_cpu[cpu].counts[number] = (struct counts){ .rx_bytes = 1000 * (number + 1), .rx_packets = 10,
								     .tx_bytes = 500 * (number + 1), .tx_packets = 5,
								     .errors = 1, .dropped = 2, .rx_drops = 3, .tx_drops = 4 };
	add_to(&net->devices, &device->list);
}

static void set_up(void)
{
	make_up(&guest, sizeof(guest), layout, sizeof(layout) / sizeof(layout[0]));
	symbol("tick_nsec", &guest.tick);
	symbol("runqueues", &guest.per_cpu[0].clock);
	symbol("init_net", &guest.initial);
	symbol("dev_get_tstats64", &guest.function);
	slot(CIEL_SLOT_SYMBOL_EXISTS, "", "dev_get_tstats64")->value = 1;
	kernel = (struct view_kernel){ .cpu_count = CPUS, .cpu = { 0, 1 }, .offset = { 0, sizeof(struct per_cpu) } };

	for (int i = 0; i < CGROUPS; i++) {
		struct css *css = &guest.cgroup[i].self;
		css->flags = ONLINE;
		css->serial = SERIAL + 10 * (u64)i;
		css->children.next = at(&css->children);
		guest.cgroup[i].links.next = at(&guest.cgroup[i].links);
	}
	add_to(&guest.cgroup[TOP].self.children, &guest.cgroup[CHILD].self.sibling);

	guest.tick = TICK;
	guest.psi.enabled = 1;
	guest.psi.pcpu = at(&guest.per_cpu[0].psi);
	guest.cgroup[TOP].psi = at(&guest.psi);
	for (int i = 0; i < STATES - 1; i++)
		guest.psi.total[STATES - 1 + i] = 1000000000ull * (u64)(i + 1);

	guest.set.tasks.next = at(&guest.set.tasks);
	guest.ending.set = guest.task.set = at(&guest.set);
	add_to(&guest.set.tasks, &guest.ending.list);
	add_to(&guest.set.tasks, &guest.task.list);
	guest.task.nsproxy = at(&guest.nsproxy);
	guest.nsproxy = at(&guest.net);
	guest.link = (struct link){ .set = at(&guest.set), .cgroup = at(&guest.cgroup[CHILD]) };
	add_to(&guest.cgroup[CHILD].links, &guest.link.list);

	guest.net.inode = 4026532250u;
	guest.net.devices.next = at(&guest.net.devices);
	guest.elsewhere.devices.next = at(&guest.elsewhere.devices);
	guest.asks_driver.get_stats64 = at(&guest.tick);
	guest.asks_core.get_stats64 = at(&guest.function);
	set_up_device(LOOPBACK, &guest.net, "lo", "", &guest.asks_driver);
	guest.devices[LOOPBACK].flags = 0x49;
	set_up_device(VETH, &guest.net, "eth0", "veth", &guest.asks_driver);
	set_up_device(PEER, &guest.elsewhere, "veth1", "veth", &guest.asks_driver);
	guest.devices[VETH].private[0] = at(&guest.devices[PEER]);
	guest.devices[VETH].private[1] = 7; /* dropped */
	guest.devices[PEER].private[0] = at(&guest.devices[VETH]);
	set_up_device(MACVLAN, &guest.net, "mac0", "macvlan", &guest.asks_driver);
	guest.port = at(&guest.devices[PEER]);
	guest.devices[MACVLAN].private[0] = at(&guest.devices[MACVLAN]);
	guest.devices[MACVLAN].private[5] = at(&guest.port);
	guest.devices[MACVLAN].private[6] = at(&guest.devices[PEER]);
	guest.devices[MACVLAN].private[8] = at(&guest.per_cpu[0].counts[MACVLAN]);
	set_up_device(TUNNEL, &guest.net, "wg0", "wireguard", &guest.asks_core);
	guest.devices[TUNNEL].stats.rx_errors = 9;
	guest.devices[TUNNEL].core = at(&guest.per_cpu[0].core);
	guest.per_cpu[1].core.rx_drops = 11;
	set_up_device(NIC, &guest.net, "eth1", "", &guest.asks_driver);
}

/* --- pressure -------------------------------------------------------------------------------------------------------- */

static int read_pressure(void)
{
	CHECK_EQUAL(view_cgroup_pressure(at(&guest.cgroup[TOP]), SERIAL, &kernel, &pressure), 0);
	return pressure.cpu_some.status;
}

static u64 total(int state)
{
	return 1000000000ull * (u64)(state + 1);
}

/* New times: CPU 0 was busy for 10 ticks, CPU 1 for 30. The first is still in two states, since two ticks ago. */
static void wait_for_cpus(void)
{
	struct psi_cpu *first = &guest.per_cpu[0].psi, *second = &guest.per_cpu[1].psi;

	for (int i = 0; i < STATES; i++) {
		/* Counters of 32 bits run over. */
		first->times[i] = first->taken[STATES + i] = UINT32_MAX - 5;
		second->times[i] = second->taken[STATES + i] = 77;
	}
	first->times[CPU_SOME] += 4 * TICK;
	first->times[BUSY] += 8 * TICK;
	second->times[BUSY] += 30 * TICK;
	first->mask = 1 << CPU_SOME | 1 << BUSY;
	guest.per_cpu[0].clock = 1000 * (u64)TICK;
	guest.per_cpu[1].clock = 1002 * (u64)TICK;
	first->start = second->start = 1000 * (u64)TICK;
}
static const u64 NEW = (4 + 2) * (u64)TICK * 10 / 40;

/* What the kernel does every two seconds; half of it when `stop` says so. */
static void take_over(int stop)
{
	const u64 new[CPUS][STATES] = { { [CPU_SOME] = 6 * TICK, [BUSY] = 10 * TICK }, { [BUSY] = 30 * TICK } };

	guest.psi.lock = 1;
	for (int cpu = 0; cpu < CPUS; cpu++)
		for (int i = 0; i < STATES; i++)
			guest.per_cpu[cpu].psi.taken[STATES + i] += (u32)new[cpu][i];
	if (stop)
		return;
	guest.psi.total[STATES - 1 + CPU_SOME] += NEW;
	guest.psi.lock = 0;
}

static u32 act_at;
static int is_stopped;
static void take_over_then(u32 number)
{
	if (number == act_at)
		take_over(is_stopped);
}

static void change_state_then(u32 number)
{
	if (number == act_at) {
		guest.per_cpu[0].psi.start += TICK;
		guest.per_cpu[0].psi.times[CPU_SOME] += TICK;
		guest.per_cpu[0].psi.times[BUSY] += TICK;
	}
}

static void test_pressure(void)
{
	u32 needed;

	/* Nothing is new: what was taken over, by the kernel's numbers of the states. */
	set_up();
	CHECK_EQUAL(read_pressure(), 0);
	CHECK_EQUAL(pressure.cpu_some.value, total(CPU_SOME));
	CHECK_EQUAL(pressure.cpu_full.value, total(CPU_FULL));
	CHECK_EQUAL(pressure.memory_some.value, total(MEMORY_SOME));
	CHECK_EQUAL(pressure.memory_full.value, total(MEMORY_FULL));
	CHECK_EQUAL(pressure.io_some.value, total(IO_SOME));
	CHECK_EQUAL(pressure.io_full.value, total(IO_FULL));

	wait_for_cpus();
	loads = 0;
	CHECK_EQUAL(read_pressure(), 0);
	CHECK_EQUAL(pressure.cpu_some.value, total(CPU_SOME) + NEW);
	CHECK_EQUAL(pressure.io_some.value, total(IO_SOME));
	needed = loads;

	/* Times that are taken over before any load, or half taken over: exact, or said to have changed. */
	for (is_stopped = 0; is_stopped <= 1; is_stopped++) {
		u32 exact = 0;
		for (act_at = 0; act_at <= needed; act_at++) {
			set_up();
			wait_for_cpus();
			before_load = take_over_then;
			int status = read_pressure();
			if (status == 0)
				CHECK_EQUAL(pressure.cpu_some.value, total(CPU_SOME) + NEW);
			else
				CHECK_EQUAL(status, CIEL_VIEW_CHANGED);
			exact += status == 0;
		}
		CHECK(exact > 0);
	}
	/* A state that ends, and lasts on as another, while it is read. */
	for (act_at = 0; act_at <= needed; act_at++) {
		set_up();
		wait_for_cpus();
		before_load = change_state_then;
		CHECK_EQUAL(read_pressure(), 0);
		CHECK_EQUAL(pressure.cpu_some.value, total(CPU_SOME) + NEW);
	}
}

static void test_no_pressure(void)
{
	set_up();
	guest.psi.enabled = 0;
	CHECK_EQUAL(read_pressure(), VIEW_NOT_ACCOUNTED);
	CHECK_EQUAL(pressure.io_full.status, VIEW_NOT_ACCOUNTED);
	set_up();
	guest.cgroup[TOP].psi = 0;
	CHECK_EQUAL(read_pressure(), VIEW_NOT_ACCOUNTED);
	/* Up to 5.12. */
	set_up();
	slot(CIEL_SLOT_ENUM_VALUE, "psi_states", "PSI_CPU_FULL")->available = 0;
	slot(CIEL_SLOT_ENUM_EXISTS, "psi_states", "PSI_CPU_FULL")->value = 0;
	CHECK_EQUAL(read_pressure(), 0);
	CHECK_EQUAL(pressure.cpu_full.status, CIEL_VIEW_NO_SLOT);
	CHECK(!strcmp(ciel_view_slots[pressure.cpu_full.slot].path, "PSI_CPU_FULL"));
	CHECK_EQUAL(pressure.memory_some.value, total(MEMORY_SOME));
	/* Without the guest's clock, what is finished. */
	set_up();
	wait_for_cpus();
	slot(CIEL_SLOT_SYMBOL, "", "runqueues")->available = 0;
	CHECK_EQUAL(read_pressure(), 0);
	CHECK_EQUAL(pressure.cpu_some.value, total(CPU_SOME) + 4 * (u64)TICK * 8 / 38);
	/* Ticks of no length. */
	set_up();
	guest.tick = 0;
	CHECK_EQUAL(read_pressure(), CIEL_VIEW_CHANGED);
}

/* --- networks -------------------------------------------------------------------------------------------------------- */

static int read_network(void)
{
	return view_cgroup_network(at(&guest.cgroup[TOP]), SERIAL, &kernel, &network);
}

static const struct view_interface *found(const char *name)
{
	for (u32 i = 0; i < network.interface_count; i++)
		if (!strcmp(network.interfaces[i].name, name))
			return &network.interfaces[i];
	fprintf(stderr, "no interface %s\n", name);
	exit(1);
}

static void test_network(void)
{
	const struct view_interface *interface;

	/* By the process of the cgroup below, and not by the one that is ending. */
	set_up();
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(network.inode.value, 4026532250u);
	CHECK_EQUAL(network.is_initial, 0);
	CHECK_EQUAL(network.interface_count, 5);

	interface = found("lo");
	CHECK_EQUAL(interface->result.status, 0);
	CHECK_EQUAL(interface->kind[0], 0);
	CHECK_EQUAL(interface->counts.rx_bytes, 2 * 500);
	CHECK_EQUAL(interface->counts.tx_bytes, 2 * 500);

	/* What it sent, and what its peer did. */
	interface = found("eth0");
	CHECK_EQUAL(interface->result.status, 0);
	CHECK(!strcmp(interface->kind, "veth"));
	CHECK_EQUAL(interface->counts.tx_bytes, 2 * 1000);
	CHECK_EQUAL(interface->counts.rx_bytes, 2 * 1500);
	CHECK_EQUAL(interface->counts.rx_packets, 2 * 5);
	CHECK_EQUAL(interface->counts.tx_dropped, 7);

	interface = found("mac0");
	CHECK_EQUAL(interface->result.status, 0);
	CHECK_EQUAL(interface->counts.rx_bytes, 2 * 4000);
	CHECK_EQUAL(interface->counts.tx_packets, 2 * 5);
	CHECK_EQUAL(interface->counts.rx_errors, 2);
	CHECK_EQUAL(interface->counts.rx_dropped, 2);
	CHECK_EQUAL(interface->counts.tx_dropped, 4);

	interface = found("wg0");
	CHECK_EQUAL(interface->counts.rx_bytes, 2 * 5000);
	CHECK_EQUAL(interface->counts.rx_errors, 9);
	CHECK_EQUAL(interface->counts.rx_dropped, 11);

	CHECK_EQUAL(found("eth1")->result.status, VIEW_PRIVATE);

	/* Where the core keeps counts of devices that no driver answers for. */
	for (u32 where = 0; where <= 3; where++) {
		set_up();
		guest.devices[NIC].operations = at(&guest.asks_nobody);
		guest.devices[NIC].where = (uint8_t)where;
		guest.devices[NIC].stats.rx_bytes = 42;
		CHECK_EQUAL(read_network(), 0);
		CHECK_EQUAL(found("eth1")->result.status, 0);
		CHECK_EQUAL(found("eth1")->counts.rx_bytes, 42 + (where >= 2 ? 2 * 6000 : 0));
		CHECK_EQUAL(found("eth1")->counts.rx_dropped, where == 3 ? 2 * 3 : 0);
	}
	/* A veth device of kernels that count both ways in one place. */
	set_up();
	guest.devices[VETH].where = guest.devices[PEER].where = 2;
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(found("eth0")->counts.rx_bytes, 2 * 2000 + 2 * 1500);
}

static void move_away(u32 number)
{
	if (number == act_at)
		guest.devices[VETH].net = at(&guest.elsewhere);
}

static void test_lies(void)
{
	/* No process, or only such as are ending. */
	set_up();
	guest.task.nsproxy = 0;
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(network.inode.status, VIEW_EMPTY);
	/* The guest's own. */
	set_up();
	guest.nsproxy = at(&guest.initial);
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(network.is_initial, 1);
	CHECK_EQUAL(network.interface_count, 0);

	/* Pointers that do not lead back: something else is there by now. */
	set_up();
	guest.task.set = at(&guest.net);
	CHECK_EQUAL(read_network(), CIEL_VIEW_CHANGED);
	set_up();
	guest.link.cgroup = at(&guest.cgroup[TOP]);
	CHECK_EQUAL(read_network(), CIEL_VIEW_CHANGED);
	set_up();
	guest.devices[PEER].private[0] = at(&guest.devices[MACVLAN]);
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(found("eth0")->result.status, CIEL_VIEW_CHANGED);
	set_up();
	guest.port = 0;
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(found("mac0")->result.status, VIEW_PRIVATE);
	CHECK_EQUAL(found("lo")->result.status, 0);
	/* Queues of the driver's count: its own, or its peer's. */
	for (int i = VETH; i <= PEER; i++) {
		set_up();
		guest.devices[i].napi.next = at(&guest.task);
		CHECK_EQUAL(read_network(), 0);
		CHECK_EQUAL(found("eth0")->result.status, VIEW_PRIVATE);
	}

	/* A device of another namespace in the list. */
	set_up();
	guest.devices[VETH].net = at(&guest.elsewhere);
	CHECK_EQUAL(read_network(), CIEL_VIEW_CHANGED);
	/* A device that goes to another namespace meanwhile, and takes the list with it. */
	for (act_at = 0; act_at < 100; act_at++) {
		set_up();
		before_load = move_away;
		int result = read_network();
		CHECK(result == 0 || result == CIEL_VIEW_CHANGED);
	}

	/* Lists without end. */
	set_up();
	guest.devices[NIC].list.next = at(&guest.devices[LOOPBACK].list);
	CHECK_EQUAL(read_network(), CIEL_VIEW_LIMIT);
	set_up();
	guest.ending.list.next = at(&guest.ending.list);
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(network.inode.status, VIEW_EMPTY);
	set_up();
	guest.task.nsproxy = 0;
	guest.link.list.next = at(&guest.link.list);
	CHECK_EQUAL(read_network(), CIEL_VIEW_FUEL);
	/* Names that do not end. */
	set_up();
	memset(guest.devices[VETH].name, 'x', 16);
	CHECK_EQUAL(read_network(), CIEL_VIEW_LIMIT);
	set_up();
	memset(guest.names[TUNNEL], 'x', 16);
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(found("wg0")->result.status, 0);
	/* A counter of another size than is known. */
	set_up();
	slot(CIEL_SLOT_FIELD_SIZE, "pcpu_sw_netstats", "rx_bytes")->value = 4;
	CHECK_EQUAL(read_network(), 0);
	CHECK_EQUAL(found("wg0")->result.status, CIEL_VIEW_LIMIT);
}

int main(void)
{
	if (ciel_view_slot_count > sizeof(slots) / sizeof(slots[0]))
		return 1;
	test_pressure();
	test_no_pressure();
	test_network();
	test_lies();
	printf("ok: views read pressure and networks of a made-up guest\n");
	return 0;
}
