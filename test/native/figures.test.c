/* SPDX-License-Identifier: Apache-2.0 */
/* Counters do not go backward for as long as that may be a moment's; what is no counter, or has no value, is left alone. */
#include "figures.h"
#include "test.h"

static uint64_t lifted(struct ciel_lift *lift, struct ciel_sample_container *record, uint64_t cpu)
{
	record->figures[CIEL_FIGURE_CPU] = (struct ciel_figure){ .value = cpu };
	ciel_figures_lift(lift, record);
	return record->figures[CIEL_FIGURE_CPU].value;
}

int main(void)
{
	struct ciel_lift lift = { 0 };
	struct ciel_sample_container record = { 0 };

	record.figures[CIEL_FIGURE_IO_WRITES].value = 7;
	record.figures[CIEL_FIGURE_MEMORY].value = 4096;
	CHECK_EQUAL(lifted(&lift, &record, 100), 100);

	record.figures[CIEL_FIGURE_IO_WRITES].value = 8;
	record.figures[CIEL_FIGURE_MEMORY].value = 1;
	CHECK_EQUAL(lifted(&lift, &record, 99), 100);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_IO_WRITES].value, 8);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_MEMORY].value, 1);

	record.figures[CIEL_FIGURE_CPU] = (struct ciel_figure){ .status = CIEL_FAULTED };
	ciel_figures_lift(&lift, &record);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_CPU].value, 0);
	CHECK_EQUAL(lifted(&lift, &record, 50), 100);
	CHECK_EQUAL(lifted(&lift, &record, 101), 101);

	/* One reading that was far too high is not believed for ever. */
	CHECK_EQUAL(lifted(&lift, &record, UINT64_MAX), UINT64_MAX);
	for (int i = 0; i < CIEL_LIFTED_SAMPLES; i++)
		CHECK_EQUAL(lifted(&lift, &record, 102), UINT64_MAX);
	CHECK_EQUAL(lifted(&lift, &record, 103), 103);
	CHECK_EQUAL(lifted(&lift, &record, 102), 103);
	return 0;
}
