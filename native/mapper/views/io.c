// SPDX-License-Identifier: Apache-2.0
//
// Block I/O of a cgroup and all below it, by device: what io.stat says after a flush. Each cgroup has a blkcg_gq for each
// device that it or one below it has used, counted and flushed like CPU time (see cpu.c).
#include "css.h"

struct io_counts {
	u64 read_bytes, write_bytes, reads, writes;
};

static inline void read_counts(struct blkg_iostat GUEST *stat, struct io_counts *out)
{
	u64 read = guest_enum(blkg_iostat_type, BLKG_IOSTAT_READ);
	u64 write = guest_enum(blkg_iostat_type, BLKG_IOSTAT_WRITE);

	out->read_bytes = stat->bytes[read];
	out->write_bytes = stat->bytes[write];
	out->reads = stat->ios[read];
	out->writes = stat->ios[write];
}

static inline u64 sum_of(const struct io_counts *counts)
{
	return counts->read_bytes + counts->write_bytes + counts->reads + counts->writes;
}

static inline void add(struct io_counts *sum, const struct io_counts *now, const struct io_counts *last)
{
	sum->read_bytes += now->read_bytes - last->read_bytes;
	sum->write_bytes += now->write_bytes - last->write_bytes;
	sum->reads += now->reads - last->reads;
	sum->writes += now->writes - last->writes;
}

static int name_device(struct request_queue GUEST *queue, struct view_io_device *device)
{
	struct gendisk GUEST *disk = queue->disk;

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

/* One pass over the subtree: into `out` when there is one, and always a number that a flush changes. */
static int sum_devices(struct cgroup_subsys_state GUEST *css, const struct view_kernel *kernel, struct view_io *out,
		       u64 counts, u64 *flushed)
{
	struct css_walk walk;

	*flushed = 0;
	if (counts)
		out->device_count = 0;
	for (css_walk_start(&walk, css); css; css = css_walk_next(&walk)) {
		struct hlist_node GUEST *node = container_of(css, struct blkcg, css)->blkg_list.first;

		for (; node; node = node->next) {
			struct blkcg_gq GUEST *group = container_of(node, struct blkcg_gq, blkcg_node);
			struct blkg_iostat_set GUEST *per_cpu = group->iostat_cpu;
			struct io_counts none = {}, now, last, sum = {};

			if (counts) {
				read_counts(&group->iostat.cur, &now);
				if (walk.depth > 0)
					read_counts(&group->iostat.last, &last);
				else
					last = none;
				add(&sum, &now, &last);
			}
			for (u64 i = 0; i < kernel->cpu_count; i++) {
				struct blkg_iostat_set GUEST *here = per_cpu_ptr(per_cpu, host_at(kernel->offset, i));

				read_counts(&here->last, &last);
				*flushed += sum_of(&last);
				if (!counts)
					continue;
				read_counts(&here->cur, &now);
				add(&sum, &now, &last);
			}
			if (counts && group->online) {
				u64 device = device_of(group->q, out);

				host_at(out->devices, device).read_bytes += sum.read_bytes;
				host_at(out->devices, device).write_bytes += sum.write_bytes;
				host_at(out->devices, device).reads += sum.reads;
				host_at(out->devices, device).writes += sum.writes;
			}
		}
	}
	return 0;
}

static int read_io(struct cgroup GUEST *cgroup, const struct view_kernel *kernel, struct view_io *out)
{
	struct cgroup_subsys_state GUEST *css = css_of(cgroup, guest_enum(cgroup_subsys_id, io_cgrp_id));
	u64 flushed_before, flushed;
	int tries = 0;

	if (!css)
		return VIEW_NOT_ACCOUNTED;
	do {
		if (tries++ == VIEW_TRIES)
			fail(CIEL_VIEW_CHANGED);
		sum_devices(css, kernel, out, 0, &flushed_before);
		sum_devices(css, kernel, out, 1, &flushed);
	} while (flushed != flushed_before);

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
	guard(address, serial);
	return 0;
}
