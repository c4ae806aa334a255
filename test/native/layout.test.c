/* SPDX-License-Identifier: Apache-2.0 */
/* Where QEMU's machines split their RAM. */
#include "layout/layout.h"
#include "test.h"

#define GiB (1ull << 30)
#define MiB (1ull << 20)

static const struct {
	enum ciel_machine machine;
	uint64_t ram, max_below_4g, below, above;
} cases[] = {
	{ CIEL_MACHINE_I440FX, 1 * GiB, 0, 1 * GiB, 0 },
	{ CIEL_MACHINE_I440FX, 3300 * MiB, 0, 3300 * MiB, 0 },
	{ CIEL_MACHINE_I440FX, 3584 * MiB, 0, 3 * GiB, 512 * MiB },
	{ CIEL_MACHINE_I440FX, 8 * GiB, 0, 3 * GiB, 5 * GiB },
	{ CIEL_MACHINE_I440FX, 2 * GiB, 1 * GiB, 1 * GiB, 1 * GiB },
	{ CIEL_MACHINE_Q35, 1 * GiB, 0, 1 * GiB, 0 },
	{ CIEL_MACHINE_Q35, 2815 * MiB, 0, 2815 * MiB, 0 },
	{ CIEL_MACHINE_Q35, 2816 * MiB, 0, 2 * GiB, 768 * MiB },
	{ CIEL_MACHINE_Q35, 16 * GiB, 0, 2 * GiB, 14 * GiB },
	{ CIEL_MACHINE_Q35, 4 * GiB, 1 * GiB, 1 * GiB, 3 * GiB },
};

int main(void)
{
	struct ciel_layout layout;
	struct ciel_error error;
	uint64_t offset, left, address;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CHECK(ciel_layout_of_qemu(cases[i].machine, cases[i].ram, cases[i].max_below_4g, &layout, &error) == CIEL_OK);
		CHECK_EQUAL(layout.ranges[0].size, cases[i].below);
		CHECK_EQUAL(layout.count, cases[i].above ? 2 : 1);
		if (!cases[i].above)
			continue;
		CHECK_EQUAL(layout.ranges[1].size, cases[i].above);
		CHECK(ciel_layout_find(&layout, 4 * GiB + 5, &offset, &left));
		CHECK_EQUAL(offset, cases[i].below + 5);
		CHECK_EQUAL(left, cases[i].above - 5);
		CHECK(!ciel_layout_find(&layout, cases[i].below, &offset, &left));
		CHECK(!ciel_layout_find(&layout, 4 * GiB + cases[i].above, &offset, &left));
		CHECK(ciel_layout_address(&layout, cases[i].below, &address));
		CHECK_EQUAL(address, 4 * GiB);
		CHECK_EQUAL(ciel_layout_end(&layout), 4 * GiB + cases[i].above);
	}
	CHECK(ciel_layout_of_qemu((enum ciel_machine)7, GiB, 0, &layout, &error) == CIEL_UNSUPPORTED);
	CHECK(ciel_layout_of_qemu(CIEL_MACHINE_Q35, GiB + 1, 0, &layout, &error) == CIEL_BAD_ARGUMENT);

	/* A tebibyte, and where an AMD processor has its upper part. (Emulated processors have too few address bits for a guest.) */
	struct ciel_layout other;
	CHECK(ciel_layout_of_qemu(CIEL_MACHINE_Q35, 1024 * GiB, 0, &layout, &error) == CIEL_OK);
	CHECK_EQUAL(ciel_layout_end(&layout), (4 + 1022) * GiB);
	CHECK(ciel_layout_above_1_tib(&layout, &other));
	CHECK_EQUAL(ciel_layout_end(&other), (1024 + 1022) * GiB);
	CHECK(ciel_layout_find(&other, 1024 * GiB + 5, &offset, &left));
	CHECK_EQUAL(offset, 2 * GiB + 5);
	CHECK(!ciel_layout_find(&other, 4 * GiB + 5, &offset, &left));
	CHECK(ciel_layout_find(&other, 5, &offset, &left) && offset == 5);
	CHECK(!ciel_layout_above_1_tib(&other, &layout));
	CHECK(ciel_layout_of_qemu(CIEL_MACHINE_Q35, GiB, 0, &layout, &error) == CIEL_OK);
	CHECK(!ciel_layout_above_1_tib(&layout, &other));
	return 0;
}
