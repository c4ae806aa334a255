// SPDX-License-Identifier: Apache-2.0
//
// Block I/O of a cgroup and all below it, by device: what io.stat says after a flush (css.h says how flushes are kept out).
// Each cgroup has a blkcg_gq for each device that it or one below it has used:
//
//   iostat.cur + Σ over the subtree ( Σ over CPUs (cur - last) + (below only) (iostat.cur - iostat.last) )
#include "css.h"
#include "v1.h"

struct io_counts {
	u64 read_bytes, write_bytes, reads, writes;
};

/* Reads; a sum of it all. */
static inline u64 pass_counts(struct blkg_iostat GUEST *stat, struct io_counts *out)
{
	u64 read = guest_enum(blkg_iostat_type, BLKG_IOSTAT_READ);
	u64 write = guest_enum(blkg_iostat_type, BLKG_IOSTAT_WRITE);

	out->read_bytes = passing(stat->bytes[read]);
	out->write_bytes = passing(stat->bytes[write]);
	out->reads = passing(stat->ios[read]);
	out->writes = passing(stat->ios[write]);
	return out->read_bytes + out->write_bytes + out->reads + out->writes;
}

/* Up to 5.14 the queue leads to the device's numbers only, as the text "254:0". */
static int read_numbers(struct request_queue GUEST *queue, struct view_io_device *device)
{
	u64 is_minor = 0;
	char text[64];

	guest_string(text, &queue->backing_dev_info->dev_name[0]);
	for (u64 i = 0; host_at(text, i); i++) {
		u32 digit = (u32)host_at(text, i) - '0';

		if (digit == ':' - '0' && !is_minor)
			is_minor = 1;
		else if (digit > 9)
			return CIEL_VIEW_CHANGED;
		else if (is_minor)
			device->minor = device->minor * 10 + digit;
		else
			device->major = device->major * 10 + digit;
	}
	return 0;
}

static int name_device(struct request_queue GUEST *queue, struct view_io_device *device)
{
	struct gendisk GUEST *disk;

	if (!field_exists(struct request_queue, disk))
		return read_numbers(queue, device);
	disk = queue->disk;
	if (!disk)
		return CIEL_VIEW_CHANGED;
	device->major = (u32)disk->major;
	device->minor = (u32)disk->first_minor;
	guest_string(device->name, &disk->disk_name[0]);
	return 0;
}

/* The number of a device in the answer; a new one while there is room. */
static u64 device_of(struct request_queue GUEST *queue, struct view_io *out)
{
	u64 i;

	for (i = 0; i < out->device_count; i++)
		if (host_at(out->devices, i).queue == (u64)queue)
			return i;
	host_at(out->devices, i).queue = (u64)queue;
	host_at(out->devices, i).read_bytes = 0;
	host_at(out->devices, i).write_bytes = 0;
	host_at(out->devices, i).reads = 0;
	host_at(out->devices, i).writes = 0;
	host_at(out->devices, i).major = 0;
	host_at(out->devices, i).minor = 0;
	host_at(host_at(out->devices, i).name, 0) = 0;
	TRY(name_device(queue, &host_at(out->devices, i)));
	out->device_count = (u32)(i + 1);
	return i;
}

static inline void add_counts(const struct io_counts *counts, u64 sign, struct view_io_device *device)
{
	device->read_bytes += sign * counts->read_bytes;
	device->write_bytes += sign * counts->write_bytes;
	device->reads += sign * counts->reads;
	device->writes += sign * counts->writes;
}

/* device += what `stat` says; a repeat reads it again. */
static inline void count_counts(struct blkg_iostat GUEST *stat, struct view_io_device *device)
{
	u64 read = guest_enum(blkg_iostat_type, BLKG_IOSTAT_READ);
	u64 write = guest_enum(blkg_iostat_type, BLKG_IOSTAT_WRITE);

	count(device->read_bytes, stat->bytes[read]);
	count(device->write_bytes, stat->bytes[write]);
	count(device->reads, stat->ios[read]);
	count(device->writes, stat->ios[write]);
}

enum pass { FLUSHED, TOTALS, UNFLUSHED };

/* The unflushed counts of one cgroup and device: added to the answer in the third pass, their `last` summed in both. */
static int sum_cpus(struct blkcg_gq GUEST *group, const struct view_kernel *kernel, enum pass pass, struct view_io *out,
		    u64 *flushed)
{
	struct blkg_iostat_set GUEST *per_cpu = group->iostat_cpu;
	u64 is_counted = pass == UNFLUSHED && group->online;
	u64 device = is_counted ? device_of(group->q, out) : 0;

	for (u64 i = 0; i < kernel->cpu_count; i++) {
		struct blkg_iostat_set GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));
		struct io_counts last;

		*flushed += pass_counts(&here->last, &last);
		if (is_counted) {
			add_counts(&last, -1ull, &host_at(out->devices, device));
			count_counts(&here->cur, &host_at(out->devices, device));
		}
	}
	return 0;
}

static int pass_over(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, enum pass pass,
		     struct view_io *out, u64 *flushed)
{
	struct css_walk walk;

	*flushed = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct hlist_node GUEST *node = container_of(css, struct blkcg, css)->blkg_list.first;

		for (; node; node = node->next) {
			struct blkcg_gq GUEST *group = container_of(node, struct blkcg_gq, blkcg_node);

			if (pass != TOTALS) {
				sum_cpus(group, kernel, pass, out, flushed);
			} else if (group->online) {
				u64 device = device_of(group->q, out);
				struct io_counts counts;

				pass_counts(&group->iostat.cur, &counts);
				add_counts(&counts, 1, &host_at(out->devices, device));
				if (walk.depth > 0) {
					pass_counts(&group->iostat.last, &counts);
					add_counts(&counts, -1ull, &host_at(out->devices, device));
				}
			}
		}
	}
	return 0;
}

/* One attempt: 1 when a flush was running or came between. */
static int read_once(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, struct view_io *out)
{
	u64 flushed_before, ignored, flushed;

	out->device_count = 0;
	pass_over(css, kernel, FLUSHED, out, &flushed_before);
	g_refresh();
	pass_over(css, kernel, TOTALS, out, &ignored);
	if (flush_is_running(css))
		return 1;
	pass_over(css, kernel, UNFLUSHED, out, &flushed);
	return flushed != flushed_before;
}

/* Of version 1: each cgroup has counted for itself, or not at all; a device that is named had some I/O. */
static int sum_v1(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, struct view_io *out)
{
	struct css_walk walk;
	u64 transfers = 0;

	out->device_count = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct hlist_node GUEST *node = container_of(css, struct blkcg, css)->blkg_list.first;

		for (; node; node = node->next) {
			struct blkcg_gq GUEST *group = container_of(node, struct blkcg_gq, blkcg_node);

			if (group->online)
				view_v1_io_group((u64)group, kernel, &host_at(out->devices, device_of(group->q, out)));
		}
	}
	for (u64 i = 0; i < out->device_count; i++)
		transfers += host_at(out->devices, i).reads + host_at(out->devices, i).writes;
	return out->device_count && !transfers ? VIEW_NOT_ACCOUNTED : 0;
}

static int read_io(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct view_io *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, io_cgrp_id));
	int tries = 0;

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	/* Up to 5.4 io.stat says what version 1's counters say, of all below together. */
	if (!is_in_default_hierarchy(cgroup) || !field_exists(struct blkcg_gq, iostat_cpu))
		return sum_v1(css, kernel, out);
	while (read_once(css, kernel, out)) {
		spoil_recording();
		if (++tries == VIEW_TRIES)
			fail(CIEL_VIEW_CHANGED);
	}
	return 0;
}

int view_cgroup_io(uint64_t address, uint64_t serial, const struct view_kernel *kernel, struct view_io *out)
{
	struct cgroup GUEST *cgroup = guard(address, serial);
	int status;

	out->device_count = 0;
	status = TRY(read_io(cgroup, kernel, out));
	settle(&out->read_bytes, status);
	settle(&out->write_bytes, status);
	settle(&out->reads, status);
	settle(&out->writes, status);
	if (status)
		out->device_count = 0;
	g_refresh();
	guard(address, serial);
	return 0;
}

int view_io_finish(const struct view_kernel *kernel, struct view_io *out)
{
	(void)kernel;
	if (out->read_bytes.status)
		return 0;
	out->read_bytes.value = 0;
	out->write_bytes.value = 0;
	out->reads.value = 0;
	out->writes.value = 0;
	for (u64 i = 0; i < out->device_count; i++) {
		out->read_bytes.value += host_at(out->devices, i).read_bytes;
		out->write_bytes.value += host_at(out->devices, i).write_bytes;
		out->reads.value += host_at(out->devices, i).reads;
		out->writes.value += host_at(out->devices, i).writes;
	}
	return 0;
}
