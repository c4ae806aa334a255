/* SPDX-License-Identifier: Apache-2.0 */
/* VMCOREINFO: the text as a note in RAM, found by a scan, and parsed as it is. */
#include "../test.h"
#include "locate/vmcoreinfo.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static uint8_t ram[8 * 4096];
	static struct ciel_vmcoreinfo_candidates found;
	struct ciel_vmcoreinfo info;
	struct ciel_source *source;
	struct ciel_error error = { 0 };

	memset(ram, 0, sizeof(ram));
	memcpy(ram, bytes, length < sizeof(ram) ? length : sizeof(ram));
	if (length > 24 && ciel_vmcoreinfo_parse((const char *)bytes + 24, length - 24, &info, &error) == CIEL_OK)
		CHECK(memchr(info.release, 0, sizeof(info.release)) && (info.levels == 4 || info.levels == 5));
	CHECK(ciel_source_open_array(ram, sizeof(ram), &source, &error) == CIEL_OK);
	if (ciel_vmcoreinfo_scan(source, &found, &error) == CIEL_OK)
		CHECK(found.count > 0 && found.count <= CIEL_MAX_CANDIDATES);
	ciel_source_destroy(source);
	return 0;
}
