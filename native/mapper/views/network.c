// SPDX-License-Identifier: Apache-2.0
//
// The network of a cgroup's processes: the interfaces of their namespace, and what has gone through them, as
// /proc/PID/net/dev says it.
//
//   cgroup ─cset_links─▶ css_set ─tasks─▶ task_struct ─nsproxy─▶ net ─dev_base_head─▶ net_device, net_device, …
//
// These lists change under the reading, and what has left them may have become something else. So each step is proven by
// the pointer that leads back: a task names its css_set, a device its namespace.
//
// Where an interface's counts are depends on its driver. The core knows four places (dev_get_stats() of the kernel): in the
// device, or per CPU in one of three records. Drivers that the core must ask keep records of their own; those of
// veth, macvlan and ipvlan, which containers have, are known here.
#include "css.h"

enum {
	MAX_TASKS = 64, /* looked at in one css_set: those that are ending have no namespaces any more */
	LOOPBACK = 1 << 3, /* IFF_LOOPBACK of the kernel's user interface */
	ALIGNMENT = 32,    /* NETDEV_ALIGN */
};

/* A counter of type u64, unsigned long, local_t or u64_stats_t, by kernel: eight bytes in each. */
static u64 count_at(u64 address, u64 size)
{
	if (size != 8)
		fail(CIEL_VIEW_LIMIT);
	return *(u64 GUEST *)address;
}
#define COUNT(record, type, field)                                                                                     \
	count_at((u64)(record) + field_offset(struct type, field), field_size(struct type, field))

/* --- the namespace --------------------------------------------------------------------------------------------------- */

static struct net GUEST *net_of_tasks(struct css_set GUEST *set)
{
	struct list_head GUEST *tasks = &set->tasks;
	struct list_head GUEST *link = tasks->next;

	for (u64 i = 0; link != tasks && i < MAX_TASKS; i++) {
		struct task_struct GUEST *task = container_of(link, struct task_struct, cg_list);
		struct nsproxy GUEST *namespaces = task->nsproxy;

		if (task->cgroups != set)
			fail(CIEL_VIEW_CHANGED);
		if (namespaces)
			return namespaces->net_ns;
		link = link->next;
	}
	return NULL_GUEST(struct net);
}

/* Of the first process that is found, in the cgroup itself or in one below it. */
static struct net GUEST *net_of(struct cgroup GUEST *top)
{
	struct cgroup_subsys_state GUEST *css = &top->self;
	struct css_walk walk;

	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct cgroup GUEST *cgroup = container_of(css, struct cgroup, self);
		struct list_head GUEST *links = &cgroup->cset_links;

		for (struct list_head GUEST *at = links->next; at != links; at = at->next) {
			struct cgrp_cset_link GUEST *link = container_of(at, struct cgrp_cset_link, cset_link);
			struct net GUEST *net;

			if (link->cgrp != cgroup)
				fail(CIEL_VIEW_CHANGED);
			net = net_of_tasks(link->cset);
			if (net)
				return net;
		}
	}
	return NULL_GUEST(struct net);
}

/* --- where drivers count --------------------------------------------------------------------------------------------- */

static int is_kind(const struct view_interface *interface, const char *kind, u64 length)
{
	for (u64 i = 0; i < length; i++)
		if (host_at(interface->kind, i) != host_slice(kind, length, i))
			return 0;
	return 1;
}
#define IS_KIND(interface, kind) is_kind((interface), (kind), host_capacity(kind))

/* netdev_priv() */
static u64 private_of(struct net_device GUEST *device)
{
	if (field_exists(struct net_device, priv))
		return (u64)device + field_offset(struct net_device, priv);
	return ((u64)device + type_size(struct net_device) + ALIGNMENT - 1) & ~(u64)(ALIGNMENT - 1);
}

/* A pair of counters per CPU: of the loopback device and of drivers that only send. */
static int add_lstats(struct net_device GUEST *device, const struct view_kernel *kernel, u64 *bytes, u64 *packets)
{
	struct pcpu_lstats GUEST *per_cpu = device->lstats;

	if (!per_cpu)
		return VIEW_PRIVATE;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct pcpu_lstats GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

		*bytes += COUNT(here, pcpu_lstats, bytes);
		*packets += COUNT(here, pcpu_lstats, packets);
	}
	return 0;
}

static int add_tstats(struct net_device GUEST *device, const struct view_kernel *kernel,
		      struct view_interface_counts *counts)
{
	struct pcpu_sw_netstats GUEST *per_cpu = device->tstats;

	if (!per_cpu)
		return VIEW_PRIVATE;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct pcpu_sw_netstats GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

		counts->rx_bytes += COUNT(here, pcpu_sw_netstats, rx_bytes);
		counts->rx_packets += COUNT(here, pcpu_sw_netstats, rx_packets);
		counts->tx_bytes += COUNT(here, pcpu_sw_netstats, tx_bytes);
		counts->tx_packets += COUNT(here, pcpu_sw_netstats, tx_packets);
	}
	return 0;
}

static int add_dstats(struct net_device GUEST *device, const struct view_kernel *kernel,
		      struct view_interface_counts *counts)
{
	struct pcpu_dstats GUEST *per_cpu = device->dstats;

	if (!per_cpu)
		return VIEW_PRIVATE;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct pcpu_dstats GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

		counts->rx_bytes += COUNT(here, pcpu_dstats, rx_bytes);
		counts->rx_packets += COUNT(here, pcpu_dstats, rx_packets);
		counts->rx_dropped += COUNT(here, pcpu_dstats, rx_drops);
		counts->tx_bytes += COUNT(here, pcpu_dstats, tx_bytes);
		counts->tx_packets += COUNT(here, pcpu_dstats, tx_packets);
		counts->tx_dropped += COUNT(here, pcpu_dstats, tx_drops);
	}
	return 0;
}

static int add_device(struct net_device GUEST *device, struct view_interface_counts *counts)
{
	counts->rx_bytes += device->stats.rx_bytes;
	counts->rx_packets += device->stats.rx_packets;
	counts->rx_errors += device->stats.rx_errors;
	counts->rx_dropped += device->stats.rx_dropped;
	counts->tx_bytes += device->stats.tx_bytes;
	counts->tx_packets += device->stats.tx_packets;
	counts->tx_errors += device->stats.tx_errors;
	counts->tx_dropped += device->stats.tx_dropped;
	return 0;
}

/* What the core itself dropped, whatever the driver. */
static int add_core_drops(struct net_device GUEST *device, const struct view_kernel *kernel,
			  struct view_interface_counts *counts)
{
	struct net_device_core_stats GUEST *per_cpu;

	if (!field_exists(struct net_device, core_stats)) {
		counts->rx_dropped += (u64)device->rx_dropped.counter;
		counts->tx_dropped += (u64)device->tx_dropped.counter;
		return 0;
	}
	per_cpu = device->core_stats;
	for (u64 i = 0; per_cpu && i < kernel->cpu_count; i++) {
		struct net_device_core_stats GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

		counts->rx_dropped += COUNT(here, net_device_core_stats, rx_dropped);
		counts->tx_dropped += COUNT(here, net_device_core_stats, tx_dropped);
	}
	return 0;
}

/*
 * macvlan, macvtap and ipvlan. Where the driver is a module its record is not in the kernel's BTF. Both records have begun
 * alike since Linux 4.15, and prove themselves: they name the device, and the port that they name belongs to the lower
 * device that they name. A tracker is nothing, or a word, by the kernel's configuration.
 *
 *   macvlan   0 dev   8 list    24 hlist   40 port      48 lowerdev   56 tracker   … accel_priv   … pcpu_stats
 *   ipvlan    0 dev   8 pnode   24 port    32 phy_dev   40 addrs      56 pcpu_stats
 */
static struct vlan_pcpu_stats GUEST *counters_behind(struct net_device GUEST *device, u64 port, u64 counters)
{
	u64 GUEST *word = (u64 GUEST *)private_of(device);

	if (word[0] != (u64)device || !word[port] || *(u64 GUEST *)word[port] != word[port + 1])
		return NULL_GUEST(struct vlan_pcpu_stats);
	return (struct vlan_pcpu_stats GUEST *)word[counters];
}

static struct vlan_pcpu_stats GUEST *macvlan_counters(struct net_device GUEST *device)
{
	u64 trackers = 0;

	if (field_exists(struct macvlan_dev, pcpu_stats))
		return ((struct macvlan_dev GUEST *)private_of(device))->pcpu_stats;
	if (field_exists(struct net_device, linkwatch_dev_tracker))
		trackers = field_size(struct net_device, linkwatch_dev_tracker) / 8;
	return counters_behind(device, 5, 8 + trackers);
}

/* ipvlan's counters are a record of its own that is the same. */
static int count_vlan(struct vlan_pcpu_stats GUEST *per_cpu, const struct view_kernel *kernel,
		      struct view_interface_counts *counts)
{
	if (!per_cpu)
		return VIEW_PRIVATE;
	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct vlan_pcpu_stats GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));
		u32 errors = here->rx_errors;

		counts->rx_bytes += COUNT(here, vlan_pcpu_stats, rx_bytes);
		counts->rx_packets += COUNT(here, vlan_pcpu_stats, rx_packets);
		counts->rx_errors += errors;
		counts->rx_dropped += errors;
		counts->tx_bytes += COUNT(here, vlan_pcpu_stats, tx_bytes);
		counts->tx_packets += COUNT(here, vlan_pcpu_stats, tx_packets);
		counts->tx_dropped += here->tx_dropped;
	}
	return 0;
}

/* One end of a veth pair: what it sent, and (by bpf_redirect_peer() only) what it received itself. */
static int add_veth_end(struct net_device GUEST *device, const struct view_kernel *kernel,
			struct view_interface_counts *counts)
{
	if (field_exists(struct net_device, pcpu_stat_type) &&
	    device->pcpu_stat_type == guest_enum(netdev_stat_type, NETDEV_PCPU_STAT_TSTATS))
		return add_tstats(device, kernel, counts);
	return add_lstats(device, kernel, &counts->tx_bytes, &counts->tx_packets);
}

/*
 * What a veth device receives is what its peer sent. The peer is the first word of the driver's record, and names the
 * device in turn; what could not be sent is the second. A device that receives by NAPI (with XDP or GRO on it, neither of
 * which is usual) counts in the driver's queues instead.
 */
static int count_veth(struct net_device GUEST *device, const struct view_kernel *kernel, struct view_interface_counts *counts)
{
	u64 GUEST *private = (u64 GUEST *)private_of(device);
	struct net_device GUEST *peer = (struct net_device GUEST *)private[0];
	struct view_interface_counts sent = {};
	int status;

	if (!peer)
		return VIEW_PRIVATE;
	if (*(u64 GUEST *)private_of(peer) != (u64)device)
		fail(CIEL_VIEW_CHANGED);
	if (device->napi_list.next != &device->napi_list || peer->napi_list.next != &peer->napi_list)
		return VIEW_PRIVATE;
	status = add_veth_end(device, kernel, counts);
	if (!status)
		status = add_veth_end(peer, kernel, &sent);
	counts->rx_bytes += sent.tx_bytes;
	counts->rx_packets += sent.tx_packets;
	counts->tx_dropped += private[1];
	return status;
}

/* Whether the core's own function answers for the device, and which records that reads. */
enum place { IN_DEVICE, IN_TSTATS, IN_DSTATS, IN_DRIVER };

static u64 dev_get_tstats64_address(void)
{
	return symbol_exists(dev_get_tstats64) ? (u64)guest_symbol(u8, dev_get_tstats64) : 0;
}

/* Its name up to 5.10. */
static u64 ip_tunnel_get_stats64_address(void)
{
	return symbol_exists(ip_tunnel_get_stats64) ? (u64)guest_symbol(u8, ip_tunnel_get_stats64) : 0;
}

static enum place place_of(struct net_device GUEST *device)
{
	const struct net_device_ops GUEST *operations = device->netdev_ops;
	u64 get_stats64 = operations->ndo_get_stats64;
	u64 type;

	if (get_stats64)
		return get_stats64 == dev_get_tstats64_address() || get_stats64 == ip_tunnel_get_stats64_address() ?
			       IN_TSTATS :
			       IN_DRIVER;
	if (operations->ndo_get_stats)
		return IN_DRIVER;
	if (!field_exists(struct net_device, pcpu_stat_type))
		return IN_DEVICE;
	type = device->pcpu_stat_type;
	if (type == guest_enum(netdev_stat_type, NETDEV_PCPU_STAT_TSTATS))
		return IN_TSTATS;
	return type == guest_enum(netdev_stat_type, NETDEV_PCPU_STAT_DSTATS) ? IN_DSTATS : IN_DEVICE;
}

static int count_elsewhere(struct net_device GUEST *device, const struct view_kernel *kernel,
			   struct view_interface_counts *counts)
{
	enum place place = place_of(device);

	if (place == IN_DRIVER)
		return VIEW_PRIVATE;
	add_device(device, counts);
	if (place == IN_TSTATS)
		return add_tstats(device, kernel, counts);
	return place == IN_DSTATS ? add_dstats(device, kernel, counts) : 0;
}

/* Asked for itself, it answers as the core would; up to 5.10 it had counters of its own, and none of these. */
static int count_tun(struct net_device GUEST *device, const struct view_kernel *kernel, struct view_interface_counts *counts)
{
	add_device(device, counts);
	return add_tstats(device, kernel, counts);
}

/* It sends, and what it sends is gone: asked for itself, it answers with the one pair of counters. */
static int count_dummy(struct net_device GUEST *device, const struct view_kernel *kernel,
		       struct view_interface_counts *counts)
{
	if (place_of(device) != IN_DRIVER)
		return count_elsewhere(device, kernel, counts);
	return add_lstats(device, kernel, &counts->tx_bytes, &counts->tx_packets);
}

static int count_loopback(struct net_device GUEST *device, const struct view_kernel *kernel,
			  struct view_interface_counts *counts)
{
	int status = add_lstats(device, kernel, &counts->tx_bytes, &counts->tx_packets);

	counts->rx_bytes = counts->tx_bytes;
	counts->rx_packets = counts->tx_packets;
	return status;
}

static int count_interface(struct net_device GUEST *device, const struct view_kernel *kernel, struct view_interface *interface)
{
	struct view_interface_counts counts = {};
	int status;

	if (interface->flags & LOOPBACK)
		status = count_loopback(device, kernel, &counts);
	else if (IS_KIND(interface, "macvlan") || IS_KIND(interface, "macvtap"))
		status = count_vlan(macvlan_counters(device), kernel, &counts);
	else if (IS_KIND(interface, "ipvlan"))
		status = count_vlan(counters_behind(device, 3, 7), kernel, &counts);
	else if (IS_KIND(interface, "veth"))
		status = count_veth(device, kernel, &counts);
	else if (IS_KIND(interface, "tun"))
		status = count_tun(device, kernel, &counts);
	else if (IS_KIND(interface, "dummy"))
		status = count_dummy(device, kernel, &counts);
	else
		status = count_elsewhere(device, kernel, &counts);
	if (!status)
		status = add_core_drops(device, kernel, &counts);
	interface->counts.rx_bytes = counts.rx_bytes;
	interface->counts.rx_packets = counts.rx_packets;
	interface->counts.rx_errors = counts.rx_errors;
	interface->counts.rx_dropped = counts.rx_dropped;
	interface->counts.tx_bytes = counts.tx_bytes;
	interface->counts.tx_packets = counts.tx_packets;
	interface->counts.tx_errors = counts.tx_errors;
	interface->counts.tx_dropped = counts.tx_dropped;
	return status;
}

/* --- the interfaces -------------------------------------------------------------------------------------------------- */

static int read_kind(struct net_device GUEST *device, struct view_interface *interface)
{
	const struct rtnl_link_ops GUEST *operations = device->rtnl_link_ops;

	if (operations)
		guest_string(interface->kind, operations->kind);
	return 0;
}

static int read_interface(struct net_device GUEST *device, const struct view_kernel *kernel,
			  struct view_interface *interface)
{
	guest_string(interface->name, &device->name[0]);
	interface->device = (u64)device;
	interface->index = (u32)device->ifindex;
	interface->flags = device->flags;
	host_at(interface->kind, 0) = 0;
	interface->result.value = 0;
	TRY(read_kind(device, interface));
	settle(&interface->result, TRY(count_interface(device, kernel, interface)));
	return 0;
}

int view_cgroup_network(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_network *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	struct net GUEST *net = net_of(cgroup);
	u64 number = 0;

	out->net = (u64)net;
	out->is_initial = net == guest_symbol(struct net, init_net);
	settle(&out->inode, net ? 0 : VIEW_EMPTY);
	if (net)
		out->inode.value = net->ns.inum;
	if (net && !out->is_initial) {
		struct list_head GUEST *devices = &net->dev_base_head;

		for (struct list_head GUEST *link = devices->next; link != devices; link = link->next) {
			struct net_device GUEST *device = container_of(link, struct net_device, dev_list);

			if (device->nd_net.net != net)
				fail(CIEL_VIEW_CHANGED);
			read_interface(device, kernel, &host_at(out->interfaces, number));
			number++;
		}
	}
	out->interface_count = (u32)number;
	g_refresh();
	guard(address, serial);
	return 0;
}
