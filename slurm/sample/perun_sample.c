/*
 * perun-sample: reads small files of the kernel's on an absolute grid of time and hands whole blocks of rows to its parent.
 *
 * A loop in Python costs three to four times as much; this one holds no memory but one block, opens nothing, and ends with its
 * parent. Descriptor 0 is a socket of the parent's (orders, open files, values that others read), 1 the pipe for blocks.
 */
#define _GNU_SOURCE
#include "sample.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_S = 1000000000, FILE_B = 64, SAFE_DIGITS = 18, TEXT_B = 1 << 18, MEMORY_B = 256 };
/* As backend/power_pmu.py: each so manyth row is of files; less than a modulus over so much is no way back. */
enum { CHECK = 64, BACK = 1024 };
/* As energy/schedule.py: what a disciplined clock may gain on the monotonic one, and what reading both costs. */
enum { SLEW_PPM = 1000, CLOCK_NOISE_NS = 50000000 };

struct grid {
	int64_t period_ns, offset_ns, next, seen_ns, step_ns;
};

/* What each row needs of a column, and no more: caches are cold after a sleep. */
struct source {
	int file;
	uint16_t form, summed;
	int64_t least;
	int64_t unsafe; /* the least value that is none; from it on `bad` is looked at */
	int64_t kept;   /* of the parent, or read not long ago */
};

/* The perf group that a column leads, and how far the column's own event is from its file's counter. */
struct event {
	int group;
	bool counted;                   /* the group was read for this row, and has moved */
	uint64_t counts[1 + GROUP_MAX]; /* how many, then each */
	int64_t base, last;             /* GAP_VALUE: not known yet */
};

struct sampler {
	struct grid grid;
	uint32_t turn; /* counts rows */
	struct event *events; /* per column; NULL: there are none */
	uint32_t columns, divided, rows_max, rows, gaps, skipped;
	struct source *sources;  /* per column */
	struct column *kinds;    /* per column */
	int64_t *stale_ns;       /* per column: when it is to be read again */
	int64_t *ticks;          /* per row */
	int32_t *late_us;        /* per row */
	double *elapsed_ns;      /* per row */
	uint64_t *sums;          /* per row */
	int64_t *values;         /* row by row */
	char *text;              /* of a long file */
	struct gap *gap;         /* of the block */
	char *out;               /* a whole block, packed */
	size_t out_b;
};

static int64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
}

static int64_t due_ns(const struct grid *grid)
{
	return grid->next * grid->period_ns - grid->offset_ns;
}

static void observe(struct grid *grid, int64_t mono_ns)
{
	int64_t drift_ns = now_ns(CLOCK_REALTIME) - mono_ns - grid->offset_ns - grid->step_ns;
	int64_t since_ns = mono_ns > grid->seen_ns ? mono_ns - grid->seen_ns : 0;

	if (llabs(drift_ns) <= CLOCK_NOISE_NS + since_ns / 1000000 * SLEW_PPM)
		grid->offset_ns += drift_ns;
	else
		grid->step_ns += drift_ns;
	grid->seen_ns = mono_ns;
}

static bool is_space(char byte)
{
	return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* The number of at most 64 bits that a file holds and nothing else; false where it holds anything else. */
static bool number_in(const char *text, ssize_t size, bool *negative, uint64_t *number)
{
	const char *end = text + size;
	int digits = 0;

	while (text < end && is_space(*text))
		text++;
	while (end > text && is_space(end[-1]))
		end--;
	*negative = text < end && *text == '-';
	*number = 0;
	for (text += *negative; text < end; text++, digits++) {
		unsigned digit = (unsigned char)*text - '0';

		if (digit > 9 || digits == 20 || __builtin_mul_overflow(*number, (uint64_t)10, number) ||
		    __builtin_add_overflow(*number, (uint64_t)digit, number))
			return false;
	}
	return digits > 0 && (!*negative || *number <= (uint64_t)INT64_MAX);
}

/* Digits that no 63 bits are too few for, and perhaps a line's end, as the kernel writes them; -1: something else. */
static int64_t plain_number(const char *text, ssize_t size)
{
	int64_t number = 0;

	if (size > 0 && text[size - 1] == '\n')
		size--;
	if (size <= 0 || size > SAFE_DIGITS)
		return -1;
	for (ssize_t at = 0; at < size; at++) {
		unsigned digit = (unsigned char)text[at] - '0';

		if (digit > 9)
			return -1;
		number = number * 10 + digit;
	}
	return number;
}

static bool is_bad(const struct column *kind, int64_t value)
{
	for (uint32_t i = 0; i < kind->bad_count; i++)
		if (value == kind->bad[i])
			return true;
	return false;
}

static int64_t gap(struct sampler *all, uint32_t column, int why, int64_t value)
{
	all->gap[all->gaps++] = (struct gap){ .row = all->rows, .column = column, .why = why, .value = value };
	return GAP_VALUE;
}

/* A file that holds one number. */
static int64_t read_number(struct sampler *all, uint32_t column)
{
	const struct source *from = &all->sources[column];
	char text[FILE_B];
	uint64_t number;
	int64_t value;
	ssize_t size = pread(from->file, text, sizeof(text), 0);
	bool negative;

	if (size < 0)
		return gap(all, column, errno, 0);
	value = plain_number(text, size);
	if (value >= from->least && value >= 0 && value < from->unsafe)
		return value;
	if (!number_in(text, size, &negative, &number))
		return gap(all, column, NO_NUMBER, 0);
	value = negative ? -(int64_t)number : (int64_t)number;
	if ((negative ? value : 0) < from->least)
		return gap(all, column, TOO_LITTLE, value);
	if (number > INT64_MAX || is_bad(&all->kinds[column], value))
		return gap(all, column, NO_VALUE, value);
	return value;
}

/* The file's text up to a line that begins with `until`, or its end; NULL where it is too long or cannot be read. */
static const char *read_text(struct sampler *all, uint32_t column, size_t most, const char *until)
{
	size_t size = 0;

	while (size < most) {
		ssize_t done = pread(all->sources[column].file, all->text + size, most - size, (off_t)size);

		if (done < 0)
			return NULL;
		size += (size_t)done;
		all->text[size] = '\0';
		if (done == 0 || strstr(all->text, until) != NULL)
			return all->text;
	}
	errno = EFBIG;
	return NULL;
}

/* Time in which all CPUs were busy, in ticks of USER_HZ: user, nice, system, irq, softirq and steal (proc_stat(5)). */
static int64_t read_cpus(struct sampler *all, uint32_t column)
{
	const char *line = read_text(all, column, TEXT_B, "\nintr ");
	int64_t busy = 0;

	if (line == NULL)
		return gap(all, column, errno, 0);
	while (strncmp(line, "cpu", 3) == 0) {
		const char *at = line + strcspn(line, " \n");
		int fields = 0;

		for (; fields < 8; fields++) {
			char *end;
			uint64_t ticks;

			at += strspn(at, " ");
			if (*at < '0' || *at > '9')
				break;
			ticks = strtoull(at, &end, 10);
			if (line[3] != ' ' && fields != 3 && fields != 4)
				busy += (int64_t)ticks;
			at = end;
		}
		if (line[3] != ' ' && fields < 5)
			return gap(all, column, NO_NUMBER, 0);
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return busy;
}

/* Memory in use, in bytes: MemTotal less MemAvailable (proc_meminfo(5)), which stand in the file's first lines. */
static int64_t read_memory(struct sampler *all, uint32_t column)
{
	ssize_t size = pread(all->sources[column].file, all->text, MEMORY_B, 0);
	const char *total, *available;

	if (size < 0)
		return gap(all, column, errno, 0);
	all->text[size] = '\0';
	total = strstr(all->text, "MemTotal:");
	available = strstr(all->text, "MemAvailable:");
	if (total == NULL || available == NULL)
		return gap(all, column, NO_NUMBER, 0);
	return (strtoll(strchr(total, ':') + 1, NULL, 10) - strtoll(strchr(available, ':') + 1, NULL, 10)) * 1024;
}

/* Whether the group gave its counts. */
static bool read_group(struct event *leader)
{
	ssize_t size = read(leader->group, leader->counts, sizeof(leader->counts));

	return size > 0 && (uint64_t)size == 8 * (leader->counts[0] + 1);
}

/* The same where it has counted since: of a package whose CPUs are offline it stands still. */
static bool read_moved(struct event *leader)
{
	uint64_t before[1 + GROUP_MAX];

	memcpy(before, leader->counts, sizeof(before));
	return read_group(leader) && memcmp(before, leader->counts, sizeof(before)) != 0;
}

/* What a column's event has counted, in the counter's unit. */
static int64_t counted(const struct column *kind, const struct event *leader)
{
	unsigned __int128 product = (unsigned __int128)leader->counts[1 + kind->place] * (uint64_t)kind->num;

	return (int64_t)(product / (uint64_t)kind->den % (uint64_t)kind->wrap);
}

/*
 * From what the counter and the group differ, by a file that was read between two reads of the group: as before where that may
 * still be so, for this process may have slept between them.
 */
static int64_t base_of(const struct column *kind, int64_t former, int64_t value, int64_t before, int64_t after)
{
	int64_t low = (value - after + kind->wrap) % kind->wrap, width = (after - before + kind->wrap) % kind->wrap, off;

	if (former == GAP_VALUE)
		return low;
	off = (former - low + kind->wrap) % kind->wrap;
	if (off <= width)
		return former;
	return off - width < kind->wrap - off ? (low + width) % kind->wrap : low;
}

/* A counter by its group, read once for all its columns; at the file's turn, or where the group fails, by its file. */
static int64_t read_event(struct sampler *all, uint32_t column)
{
	const struct column *kind = &all->kinds[column];
	struct event *own = &all->events[column], *leader = &all->events[kind->leader];
	int64_t value, before;

	if (column == kind->leader)
		leader->counted = read_moved(leader) && all->turn % CHECK != 0;
	if (leader->counted && own->base != GAP_VALUE) {
		value = (own->base + counted(kind, leader)) % kind->wrap;
	} else {
		before = counted(kind, leader);
		value = read_number(all, column);
		if (value == GAP_VALUE || value >= kind->wrap)
			return value;
		if (read_group(leader))
			own->base = base_of(kind, own->base, value, before, counted(kind, leader));
	}
	/* A counter that seems to have gone back by a little has not wrapped. */
	if (own->last != GAP_VALUE && own->last != value && (own->last - value + kind->wrap) % kind->wrap < kind->wrap / BACK)
		return own->last;
	return own->last = value;
}

/* One column of the row; a gap is noted with its reason. */
static int64_t read_one(struct sampler *all, uint32_t column, int64_t mono_ns)
{
	struct source *from = &all->sources[column];

	if (from->form == FORM_NUMBER)
		return read_number(all, column);
	if (from->form == FORM_EVENT)
		return read_event(all, column);
	if (from->form != FORM_GIVEN && mono_ns >= all->stale_ns[column]) {
		from->kept = from->form == FORM_CPUS ? read_cpus(all, column) : read_memory(all, column);
		all->stale_ns[column] = mono_ns + all->kinds[column].keep_ns;
	}
	return from->kept;
}

static char *put(char *at, const void *data, size_t size)
{
	memcpy(at, data, size);
	return at + size;
}

static void write_all(const char *data, size_t size)
{
	while (size > 0) {
		ssize_t done = write(STDOUT_FILENO, data, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			_exit(0); /* nobody is left to read it */
		data += done;
		size -= (size_t)done;
	}
}

static int64_t quotient(int64_t value, int64_t step)
{
	return value == GAP_VALUE ? GAP_VALUE : value / step - (value % step < 0);
}

static int64_t row_ns(const struct sampler *all, uint32_t row)
{
	return all->ticks[row] * all->grid.period_ns + (int64_t)1000 * all->late_us[row];
}

/* `elapsed_ns` per row: since the one before it. */
static struct rise rise_of(const struct sampler *all, const int64_t *values, const double *elapsed_ns)
{
	const struct rise unknown = { GAP_VALUE, GAP_VALUE, 0, 0 };
	struct rise found = { INT64_MAX, INT64_MIN, 0, 0 };
	double fastest = 0;

	for (uint32_t row = 0; row < all->rows; row++) {
		int64_t step;

		if (values[row] == GAP_VALUE)
			return unknown;
		if (row == 0)
			continue;
		if (__builtin_sub_overflow(values[row], values[row - 1], &step))
			return unknown;
		if (row == 1 || (double)step > fastest * elapsed_ns[row]) {
			fastest = (double)step / elapsed_ns[row];
			found.fastest = row;
		}
		found.least = step < found.least ? step : found.least;
		found.most = step > found.most ? step : found.most;
		if (step != 0)
			found.moved = row;
	}
	return all->rows > 1 ? found : unknown;
}

static void flush_block(struct sampler *all)
{
	struct block head = {
		.version = SAMPLE_VERSION, .rows = all->rows, .gaps = all->gaps, .skipped = all->skipped,
		.offset_ns = all->grid.offset_ns, .step_ns = all->grid.step_ns,
	};
	char *at = put(all->out, &head, sizeof(head));
	/* Column by column: it is the columns that are added up and stored. */
	int64_t *columns, *divided;

	at = put(at, all->ticks, all->rows * sizeof(int64_t));
	at = put(at, all->sums, all->rows * sizeof(uint64_t));
	columns = (int64_t *)(void *)at;
	divided = columns + (size_t)all->rows * all->columns;
	at = (char *)(divided + (size_t)all->rows * all->divided);
	for (uint32_t row = 1; row < all->rows; row++)
		all->elapsed_ns[row] = (double)(row_ns(all, row) - row_ns(all, row - 1));
	for (uint32_t column = 0; column < all->columns; column++, columns += all->rows) {
		struct rise rise;

		for (uint32_t row = 0; row < all->rows; row++)
			columns[row] = all->values[(size_t)row * all->columns + column];
		if (all->kinds[column].step > 1)
			for (uint32_t row = 0; row < all->rows; row++)
				*divided++ = quotient(columns[row], all->kinds[column].step);
		rise = rise_of(all, columns, all->elapsed_ns);
		at = put(at, &rise, sizeof(rise));
	}
	at = put(at, all->gap, all->gaps * sizeof(struct gap));
	at = put(at, all->late_us, all->rows * sizeof(int32_t));
	write_all(all->out, (size_t)(at - all->out));
	all->rows = all->gaps = all->skipped = 0;
}

/* A row; returns when it was done. */
static int64_t sample(struct sampler *all, int64_t mono_ns)
{
	struct grid *grid = &all->grid;
	int64_t *values = all->values + (size_t)all->rows * all->columns;
	int64_t due = due_ns(grid), skipped = (mono_ns - due) / grid->period_ns, done_ns, late_us;
	uint64_t sum = 0;

	all->skipped += (uint32_t)skipped;
	all->ticks[all->rows] = grid->next + skipped;
	for (uint32_t column = 0; column < all->columns; column++)
		sum += (uint64_t)(values[column] = read_one(all, column, mono_ns)) * all->sources[column].summed;
	all->sums[all->rows] = sum;
	all->turn++;
	/* The row is of the middle of its reading. */
	done_ns = now_ns(CLOCK_MONOTONIC);
	late_us = ((mono_ns + done_ns) / 2 - due - skipped * grid->period_ns) / 1000;
	all->late_us[all->rows] = (int32_t)(late_us > INT32_MAX ? INT32_MAX : late_us);
	grid->next += skipped + 1;
	if (++all->rows == all->rows_max)
		flush_block(all);
	return done_ns;
}

/* Exactly `size` bytes of the socket, with the descriptors that came with them. */
static bool take(void *data, size_t size, int *fds, uint32_t *fd_count)
{
	char *at = data;

	while (size > 0) {
		union {
			char space[CMSG_SPACE(FDS_A_MESSAGE * sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec part = { .iov_base = at, .iov_len = size };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space) };
		ssize_t done = recvmsg(STDIN_FILENO, &message, MSG_CMSG_CLOEXEC);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0 || (message.msg_flags & MSG_CTRUNC) != 0)
			return false;
		for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one != NULL; one = CMSG_NXTHDR(&message, one)) {
			size_t count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS)
				continue;
			if (fds == NULL || *fd_count + count > COLUMNS_MAX)
				return false;
			memcpy(fds + *fd_count, CMSG_DATA(one), count * sizeof(int));
			*fd_count += (uint32_t)count;
		}
		at += done;
		size -= (size_t)done;
	}
	return true;
}

static void *reserve(size_t count, size_t size)
{
	void *made = calloc(count != 0 ? count : 1, size);

	if (made == NULL)
		_exit(1);
	return made;
}

static bool begin(struct sampler *all)
{
	struct orders orders;
	uint32_t fd_count = 0, used = 0;
	int *fds;

	if (!take(&orders, sizeof(orders), NULL, NULL) || orders.version != SAMPLE_VERSION || orders.columns > COLUMNS_MAX ||
	    orders.rows == 0 || orders.rows > ROWS_MAX || orders.period_ns <= 0 || orders.next < 0)
		return false;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if ((uint32_t)getppid() != orders.parent)
		return false;
	all->grid = (struct grid){ orders.period_ns, orders.offset_ns, orders.next, now_ns(CLOCK_MONOTONIC), 0 };
	all->columns = orders.columns;
	all->rows_max = orders.rows;
	all->kinds = reserve(orders.columns, sizeof(struct column));
	all->sources = reserve(orders.columns, sizeof(struct source));
	all->stale_ns = reserve(orders.columns, sizeof(int64_t));
	all->text = reserve(TEXT_B + 1, 1);
	all->ticks = reserve(orders.rows, sizeof(int64_t));
	all->late_us = reserve(orders.rows, sizeof(int32_t));
	all->elapsed_ns = reserve(orders.rows, sizeof(double));
	all->sums = reserve(orders.rows, sizeof(uint64_t));
	all->values = reserve((size_t)orders.columns * orders.rows, sizeof(int64_t));
	all->gap = reserve((size_t)orders.columns * orders.rows + 1, sizeof(struct gap));
	all->out_b = sizeof(struct block) + (size_t)orders.rows * (8 + 8 + 4) + orders.columns * sizeof(struct rise) +
	             (size_t)orders.rows * orders.columns * (8 + 8 + sizeof(struct gap));
	all->out = reserve(all->out_b, 1);
	fds = reserve(COLUMNS_MAX, sizeof(int));
	for (uint32_t column = 0; column < orders.columns; column++) {
		struct column *kind = &all->kinds[column];
		struct source *from = &all->sources[column];

		if (!take(kind, sizeof(*kind), fds, &fd_count) || kind->bad_count > BAD_MAX || kind->form > FORM_EVENT)
			return false;
		*from = (struct source){ -1, (uint16_t)kind->form, kind->summed != 0, kind->least, INT64_MAX, GAP_VALUE };
		all->divided += kind->step > 1;
		if (kind->form == FORM_EVENT) {
			if (kind->leader > column || all->kinds[kind->leader].form != FORM_EVENT || kind->place >= GROUP_MAX ||
			    kind->wrap <= 0 || kind->wrap > INT64_MAX / 2 || kind->num <= 0 || kind->den <= 0 ||
			    (kind->last != GAP_VALUE && (kind->last < 0 || kind->last >= kind->wrap)))
				return false;
			if (all->events == NULL)
				all->events = reserve(orders.columns, sizeof(struct event));
			all->events[column] = (struct event){ .group = -1, .base = GAP_VALUE, .last = kind->last };
		}
		for (uint32_t i = 0; i < kind->bad_count; i++)
			if (kind->bad[i] < from->unsafe)
				from->unsafe = kind->bad[i];
	}
	for (uint32_t column = 0; column < orders.columns; column++) {
		if (all->sources[column].form == FORM_GIVEN)
			continue;
		if (used == fd_count)
			return false;
		all->sources[column].file = fds[used++];
		if (all->sources[column].form != FORM_EVENT || all->kinds[column].leader != column)
			continue;
		if (used == fd_count)
			return false;
		all->events[column].group = fds[used++];
	}
	free(fds);
	return used == fd_count;
}

/* What the parent says; false at its end. */
static bool heed(struct sampler *all)
{
	char what;

	if (!take(&what, 1, NULL, NULL))
		return false;
	if (what == 'f') {
		flush_block(all);
		return true;
	}
	if (what != 'v')
		return false;
	for (uint32_t column = 0; column < all->columns; column++)
		if (all->sources[column].form == FORM_GIVEN && !take(&all->sources[column].kept, sizeof(int64_t), NULL, NULL))
			return false;
	return true;
}

int main(void)
{
	struct sampler all = { 0 };
	struct pollfd parent = { .fd = STDIN_FILENO, .events = POLLIN };

	signal(SIGPIPE, SIG_IGN);
	if (!begin(&all))
		return 1;
	while (poll(&parent, 1, 0) > 0) /* values that others read are in the first row already */
		if (!heed(&all))
			break;
	for (;;) {
		int64_t mono_ns = now_ns(CLOCK_MONOTONIC), left_ns = due_ns(&all.grid) - mono_ns;
		struct timespec left;
		int ready;

		if (left_ns <= 0) {
			int64_t done_ns = sample(&all, mono_ns);

			if (mono_ns - all.grid.seen_ns > NS_PER_S)
				observe(&all.grid, mono_ns);
			left_ns = due_ns(&all.grid) - done_ns;
		}
		/* The sleep hears the parent, who is heard between rows that are late as well. */
		left_ns = left_ns > 0 ? left_ns : 0;
		left = (struct timespec){ .tv_sec = left_ns / NS_PER_S, .tv_nsec = left_ns % NS_PER_S };
		ready = ppoll(&parent, 1, &left, NULL);
		if (ready < 0 && errno != EINTR)
			break;
		if (ready > 0 && !heed(&all))
			break;
	}
	flush_block(&all);
	return 0;
}
