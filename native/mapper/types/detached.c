/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The release is the guest's word, so it must be a plain file name before it becomes part of a path. A guest that gives
 * another kernel's release gets that kernel's offsets, and deceives itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../cleanup.h"
#include "detached.h"

static int is_file_name(const char *release)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-";

	return release[0] && release[0] != '.' && strspn(release, letters) == strlen(release);
}

static enum ciel_status read_file(const char *path, uint8_t **ret, uint32_t *ret_length, struct ciel_error *error)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		return ciel_fail_errno(error, errno, "opening the types %s", path);
	if (status.st_size <= 0 || status.st_size > CIEL_MAX_BTF)
		return ciel_fail(error, CIEL_NO_TYPES, "%s has %lld bytes: no BTF", path, (long long)status.st_size);
	_cleanup_free_ uint8_t *bytes = malloc((size_t)status.st_size);
	if (!bytes)
		return ciel_fail(error, CIEL_OUT_OF_MEMORY, "no memory for the types %s", path);
	for (size_t done = 0; done < (size_t)status.st_size;) {
		ssize_t got = read(fd, bytes + done, (size_t)status.st_size - done);
		if (got <= 0)
			return ciel_fail_errno(error, got ? errno : EIO, "reading the types %s", path);
		done += (size_t)got;
	}
	*ret_length = (uint32_t)status.st_size;
	*ret = ciel_take(bytes);
	return CIEL_OK;
}

/* The first file that fits the pattern; 0 when there is none. */
static int find_file(const char *pattern, char *path, size_t size)
{
	glob_t found = { 0 };
	int is_found = glob(pattern, GLOB_NOSORT, NULL, &found) == 0 && found.gl_pathc > 0 &&
		       (size_t)snprintf(path, size, "%s", found.gl_pathv[0]) < size;

	globfree(&found);
	return is_found;
}

enum ciel_status ciel_btf_detached(const char *directory, const char *release, uint8_t **ret, uint32_t *ret_length,
				   struct ciel_error *error)
{
	static const char *const layouts[] = { "%s/%s.btf", "%s/*/*/x86_64/%s.btf" };
	char pattern[512], path[512];

	if (!is_file_name(release))
		return ciel_fail(error, CIEL_NO_TYPES, "the kernel carries no BTF, and its release is no file name");
	if (!directory || !directory[0])
		return ciel_fail(error, CIEL_NO_TYPES,
				 "the kernel %s carries no BTF (CONFIG_DEBUG_INFO_BTF); give a directory that has its types as "
				 "%s.btf, from BTFHub or by pahole -J",
				 release, release);
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
		snprintf(pattern, sizeof(pattern), layouts[i], directory, release);
		if (find_file(pattern, path, sizeof(path)))
			return read_file(path, ret, ret_length, error);
	}
	snprintf(pattern, sizeof(pattern), "%s/*/*/x86_64/%s.btf.tar.xz", directory, release);
	if (find_file(pattern, path, sizeof(path)))
		return ciel_fail(error, CIEL_NO_TYPES, "the kernel %s carries no BTF, and %s is packed: unpack it there", release,
				 path);
	return ciel_fail(error, CIEL_NO_TYPES,
			 "the kernel %s carries no BTF, and neither %s/%s.btf nor %s/*/*/x86_64/%s.btf is there", release, directory,
			 release, directory, release);
}
