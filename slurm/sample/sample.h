/* What perun-sample is given and what it makes: docs/architecture.md, "The sampler's blocks". All numbers are this machine's own. */
#ifndef PERUN_SAMPLE_H
#define PERUN_SAMPLE_H

#include <stdint.h>

enum {
	SAMPLE_VERSION = 6,
	COLUMNS_MAX = 8192,
	ROWS_MAX = 4096,
	BAD_MAX = 16,
	FDS_A_MESSAGE = 200,
	GROUP_MAX = 16, /* events of a group */
};

/* The first message, without descriptors. */
struct orders {
	uint32_t version;
	uint32_t columns;
	uint32_t rows;    /* of a block */
	uint32_t parent;  /* with whose end this ends */
	int64_t period_ns;
	int64_t offset_ns; /* wall clock minus monotonic clock, by the grid */
	int64_t next;      /* index of the first tick */
};

/* Then one of these per column, with its file, and that of the group that it leads. */
struct column {
	int64_t least;        /* less is no value */
	int64_t keep_ns;      /* a value of CPUs or memory is repeated in rows for so long */
	int64_t step;         /* above 1: blocks have the values divided by it, too */
	int64_t wrap, num, den; /* of a group's event: the counter's modulus; a count times num / den is the counter's */
	int64_t last;         /* what it showed before; GAP_VALUE: nothing */
	int64_t bad[BAD_MAX]; /* nor is one of these */
	uint32_t bad_count;
	uint32_t form;   /* of its file */
	uint32_t summed; /* whether it is in the rows' sums */
	uint32_t leader; /* of its group: the first column of it */
	uint32_t place;  /* in the group */
	uint32_t zero;
};

/* No file, values come by 'v'; one number; /proc/stat; /proc/meminfo; one number, and an event that counts the same. */
enum { FORM_GIVEN, FORM_NUMBER, FORM_CPUS, FORM_MEMORY, FORM_EVENT };

/* Then, at any time: one byte, 'f' for a block now, or 'v' and one value per column without a file. The end: a last block. */

struct block {
	uint32_t version;
	uint32_t rows;
	uint32_t gaps;
	uint32_t skipped; /* ticks without a row, since the block before */
	int64_t offset_ns;
	int64_t step_ns; /* by how much the wall clock was set since the start */
};

/* How a column's values go from each row to the next. */
struct rise {
	int64_t least, most; /* steps; GAP_VALUE where a value is missing, or there are no two rows */
	uint32_t fastest;    /* the row to which the step was the greatest for its time */
	uint32_t moved;      /* the last row that is not as the one before it; 0: none */
};

struct gap {
	uint32_t row;
	uint32_t column;
	int32_t why; /* errno, or one of these */
	uint32_t zero;
	int64_t value; /* what is no value; its bits, where it has 64 of them */
};

enum { NO_NUMBER = -1, NO_VALUE = -2, TOO_LITTLE = -3 };

#define GAP_VALUE INT64_MIN

#endif
