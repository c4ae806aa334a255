/* SPDX-License-Identifier: Apache-2.0 */
/* Counters never go backward; what is no counter, or has no value, is left alone. */
#include "figures.h"
#include "test.h"

int main(void)
{
	uint64_t highest[CIEL_COUNTERS] = { 0 };
	struct ciel_sample_container record = { 0 };

	record.figures[CIEL_FIGURE_CPU].value = 100;
	record.figures[CIEL_FIGURE_IO_WRITES].value = 7;
	record.figures[CIEL_FIGURE_MEMORY].value = 4096;
	ciel_figures_lift(highest, &record);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_CPU].value, 100);

	record.figures[CIEL_FIGURE_CPU].value = 99;
	record.figures[CIEL_FIGURE_IO_WRITES].value = 8;
	record.figures[CIEL_FIGURE_MEMORY].value = 1;
	ciel_figures_lift(highest, &record);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_CPU].value, 100);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_IO_WRITES].value, 8);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_MEMORY].value, 1);

	record.figures[CIEL_FIGURE_CPU] = (struct ciel_figure){ .status = CIEL_FAULTED };
	ciel_figures_lift(highest, &record);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_CPU].value, 0);
	record.figures[CIEL_FIGURE_CPU] = (struct ciel_figure){ .value = 50 };
	ciel_figures_lift(highest, &record);
	CHECK_EQUAL(record.figures[CIEL_FIGURE_CPU].value, 100);
	return 0;
}
