/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An attach as a file, so that a sampler that was killed and started again goes on in a millisecond.
 *
 * The file is of one boot of one VM and names nothing but VMCOREINFO's numbers and slots; a guest that could change it
 * would deceive itself alone. It is believed only when
 *   - its hash is right, and it was written for the same descriptors: another build asks other questions;
 *   - the RAM is laid out as it was then, which was proved;
 *   - the memory agrees: release, banner, first task and boot id are those of the file (ciel_guest_prove).
 * A kernel that was rebooted out of this RAM still agrees, as its memory is still there; that its jiffies stand still is
 * seen by the sampler, which then attaches without the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "guest.h"

enum { MAX_SLOTS = 65536 };

static const char file_magic[8] = "CIELATT";

struct saved_attach {
	char magic[8];
	uint32_t abi;
	uint32_t slot_count;
	uint8_t descriptors_hash[CIEL_HASH_BYTES];
	uint8_t btf_hash[CIEL_HASH_BYTES];
	uint8_t boot_id[16];
	struct ciel_layout layout;
	struct ciel_vmcoreinfo info;
	struct ciel_slot slots[];
	/* then the SHA-256 of all that */
};

static int hash_descriptors(uint8_t ret[CIEL_HASH_BYTES])
{
	uint32_t count;
	const struct ciel_slot_desc *descriptors = ciel_all_descriptors(&count);
	_cleanup_free_ char *text = NULL;
	size_t length = 0;
	FILE *stream = descriptors ? open_memstream(&text, &length) : NULL;

	if (!stream)
		return 0;
	for (uint32_t i = 0; i < count; i++)
		fprintf(stream, "%u %s %s\n", descriptors[i].kind, descriptors[i].record, descriptors[i].path);
	if (fclose(stream) != 0)
		return 0;
	ciel_sha256(text, length, ret);
	return 1;
}

static size_t saved_bytes(uint32_t slot_count)
{
	return sizeof(struct saved_attach) + slot_count * sizeof(struct ciel_slot);
}

enum ciel_status ciel_guest_save(const struct ciel_guest *guest, const char *path, struct ciel_error *error)
{
	uint32_t count;
	size_t bytes;

	ciel_all_descriptors(&count);
	bytes = saved_bytes(count);
	_cleanup_free_ struct saved_attach *saved = calloc(1, bytes + CIEL_HASH_BYTES);
	if (!saved || !hash_descriptors(saved->descriptors_hash))
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory to save an attach");
	memcpy(saved->magic, file_magic, sizeof(file_magic));
	saved->abi = CIEL_ABI;
	saved->slot_count = count;
	memcpy(saved->btf_hash, guest->btf_hash, sizeof(saved->btf_hash));
	memcpy(saved->boot_id, guest->boot_id, sizeof(saved->boot_id));
	saved->layout = guest->layout;
	saved->info = guest->info;
	memcpy(saved->slots, guest->slots, count * sizeof(*guest->slots));
	ciel_sha256(saved, bytes, (uint8_t *)saved + bytes);

	/* Under another name first: a reader sees the old file or the new one. */
	char temporary[512];
	if (snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)getpid()) >= (int)sizeof(temporary))
		return ciel_fail(error, CIEL_BAD_ARGUMENT, "the cache path %s is too long", path);
	_cleanup_close_ int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file < 0)
		return ciel_fail(error, CIEL_PERMISSION_DENIED, "creating %s: %s", temporary, strerrordesc_np(errno));
	ssize_t written = write(file, saved, bytes + CIEL_HASH_BYTES);
	if (written != (ssize_t)(bytes + CIEL_HASH_BYTES) || rename(temporary, path) != 0) {
		unlink(temporary);
		return ciel_fail(error, CIEL_PERMISSION_DENIED, "writing %s: %s", path, strerrordesc_np(errno));
	}
	return CIEL_OK;
}

static struct saved_attach *read_saved(const char *path, uint32_t slot_count)
{
	size_t bytes = saved_bytes(slot_count) + CIEL_HASH_BYTES;
	struct stat status;
	_cleanup_close_ int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (file < 0 || fstat(file, &status) != 0 || (size_t)status.st_size != bytes)
		return NULL;
	struct saved_attach *saved = malloc(bytes);
	if (saved && read(file, saved, bytes) != (ssize_t)bytes) {
		free(saved);
		return NULL;
	}
	return saved;
}

static int is_intact(const struct saved_attach *saved, uint32_t slot_count)
{
	uint8_t hash[CIEL_HASH_BYTES], descriptors[CIEL_HASH_BYTES];
	size_t bytes = saved_bytes(slot_count);

	ciel_sha256(saved, bytes, hash);
	return memcmp(hash, (const uint8_t *)saved + bytes, sizeof(hash)) == 0 &&
	       memcmp(saved->magic, file_magic, sizeof(file_magic)) == 0 && saved->abi == CIEL_ABI &&
	       saved->slot_count == slot_count && hash_descriptors(descriptors) &&
	       memcmp(descriptors, saved->descriptors_hash, sizeof(descriptors)) == 0;
}

static int is_same_layout(const struct ciel_layout *a, const struct ciel_layout *b)
{
	return a->count == b->count && a->nodes == b->nodes && memcmp(a->ranges, b->ranges, sizeof(a->ranges)) == 0;
}

enum ciel_status ciel_guest_load(const char *path, struct ciel_source *source, const struct ciel_layout *layout,
				 struct ciel_guest **ret, struct ciel_error *error)
{
	uint32_t count;
	uint8_t boot_id[sizeof(((struct ciel_guest *)0)->boot_id)];

	ciel_all_descriptors(&count);
	_cleanup_free_ struct saved_attach *saved = count <= MAX_SLOTS ? read_saved(path, count) : NULL;
	if (!saved || !is_intact(saved, count) || !is_same_layout(&saved->layout, layout))
		return ciel_fail(error, CIEL_STALE, "%s is missing, damaged, of another build or of other RAM", path);

	_cleanup_(ciel_guest_cleanup) struct ciel_guest *guest = calloc(1, sizeof(*guest));
	if (!guest || !(guest->slots = calloc(count, sizeof(*guest->slots))))
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for a guest");
	guest->layout = *layout;
	guest->space.source = source;
	guest->space.layout = &guest->layout;
	guest->info = saved->info;
	memcpy(guest->btf_hash, saved->btf_hash, sizeof(guest->btf_hash));
	memcpy(guest->slots, saved->slots, count * sizeof(*guest->slots));

	enum ciel_status status = ciel_vmcoreinfo_prove(&guest->info, &guest->space, error);
	if (!status)
		status = ciel_guest_prove(guest, error);
	if (!status)
		status = ciel_guest_boot_id(guest, boot_id, error);
	if (status)
		return ciel_context(error, "attaching from %s", path);
	if (memcmp(boot_id, saved->boot_id, sizeof(boot_id)) != 0)
		return ciel_fail(error, CIEL_STALE, "%s is of another boot", path);
	memcpy(guest->boot_id, boot_id, sizeof(boot_id));
	ciel_guest_set_linear_ranges(guest);
	guest->source = source;
	*ret = ciel_take(guest);
	return CIEL_OK;
}
