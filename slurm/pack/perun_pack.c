/*
 * perun-pack: makes many short calls of marked functions few rows, in the memory where a rank keeps them.
 *
 * Loaded into the user's own Python, so that it asks for nothing: no C library, no memory but what it is given. A row is
 * a region, a start and an end (docs/architecture.md, "Rank data"). Calls of less than a millisecond that are over go
 * into cells, one per region and some milliseconds, of four rows each; the other rows may be used anew.
 */
#include <stdbool.h>
#include <stdint.h>

struct row {
	int64_t region, start_ns, end_ns;
};

struct cell {
	int64_t region, first_ns, last_ns, calls, raised, total_ns, covered_ns, longest_ns, squares;
};

/* Of rows: `FREE` is nobody's, `REST` belongs to the cell before it, whose own is `CELL` less its region. */
enum { FREE = -1, CELL = -2, ROWS = 4, SLOT = 3, SHORT_NS = 1000000 };
#define REST (-(INT64_C(1) << 62))
#define LONGEST_NS (INT64_C(1) << 56)

/* What goes on from call to call; the regions' arrays have `regions` members. */
struct state {
	int64_t cell_ns, cells;
	int64_t freed; /* rows that are free now and were not handed out yet */
	int64_t regions;
	int64_t *reach_ns; /* up to when calls of each region have been packed */
	int64_t *place;    /* of each region's last cell */
};

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t sum(int64_t a, int64_t b)
{
	return a > INT64_MAX - b ? INT64_MAX : a + b;
}

static bool is_cell(const struct row *row, int64_t regions)
{
	return row->region <= CELL && row->region > CELL - regions;
}

static void put_cell(struct row *rows, const struct cell *cell)
{
	rows[0] = (struct row){ CELL - cell->region, cell->first_ns, cell->last_ns };
	rows[1] = (struct row){ REST, cell->calls, cell->raised };
	rows[2] = (struct row){ REST, cell->total_ns, cell->covered_ns };
	rows[3] = (struct row){ REST, cell->longest_ns, cell->squares };
}

static struct cell get_cell(const struct row *rows)
{
	return (struct cell){ CELL - rows[0].region, rows[0].start_ns, rows[0].end_ns,   rows[1].start_ns, rows[1].end_ns,
		              rows[2].start_ns,      rows[2].end_ns,   rows[3].start_ns, rows[3].end_ns };
}

static void give_back(struct row *row)
{
	*row = (struct row){ FREE, 1, 0 };
}

/* Whether a row is a call that may go into a cell. */
static bool is_short(const struct row *row, int64_t regions)
{
	int64_t end_ns = row->end_ns < 0 ? -row->end_ns : row->end_ns;

	return row->region >= 0 && row->region < regions && row->start_ns > 1 && end_ns >= row->start_ns &&
	       end_ns - row->start_ns < SHORT_NS;
}

/* The cell that a call goes into that starts after those before it; NULL where there is no space for a new one. */
static struct cell *cell_for(const struct row *row, struct state *state, struct cell *cells, int64_t *made, int64_t most_cells)
{
	int64_t place = state->place[row->region];
	struct cell *cell = place < 0 ? 0 : &cells[place];

	if (!cell || row->start_ns - cell->first_ns >= state->cell_ns) {
		if (*made == most_cells)
			return 0;
		state->place[row->region] = *made;
		cell = &cells[(*made)++];
		*cell = (struct cell){ .region = row->region, .first_ns = row->start_ns, .last_ns = row->start_ns };
	}
	return cell;
}

static void add_call(struct cell *cell, const struct row *row, int64_t *reach_ns)
{
	int64_t end_ns = row->end_ns < 0 ? -row->end_ns : row->end_ns, long_ns = end_ns - row->start_ns;

	cell->calls++;
	cell->raised += row->end_ns < 0;
	cell->total_ns += long_ns;
	cell->longest_ns = most(cell->longest_ns, long_ns);
	cell->squares = sum(cell->squares, long_ns * long_ns);
	cell->covered_ns += most(0, end_ns - most(row->start_ns, *reach_ns));
	cell->last_ns = most(cell->last_ns, end_ns);
	*reach_ns = most(*reach_ns, end_ns);
}

static void forget_places(struct state *state)
{
	for (int64_t region = 0; region < state->regions; region++)
		state->place[region] = -1;
}

/* How many cells find four rows in a row among the places of those that are free. */
static int64_t has_space(const int64_t *places, int64_t count)
{
	int64_t cells = 0;

	for (int64_t at = 0; at + ROWS <= count;) {
		bool together = places[at + ROWS - 1] == places[at] + ROWS - 1;

		cells += together;
		at += together ? ROWS : 1;
	}
	return cells;
}

/* Bring `order` into that of the calls' starts; `spare` is as much space. Threads hardly disturb it: mostly it is so already. */
static void sort(const struct row *rows, int64_t *order, int64_t *spare, int64_t count)
{
	for (int64_t width = 1; width < count; width *= 2) {
		bool sorted = true;

		for (int64_t at = 1; at < count && sorted; at++)
			sorted = rows[order[at - 1]].start_ns <= rows[order[at]].start_ns;
		if (sorted)
			return;
		for (int64_t from = 0; from < count; from += 2 * width) {
			int64_t middle = least(from + width, count), end = least(from + 2 * width, count);
			int64_t left = from, right = middle;

			for (int64_t at = from; at < end; at++) {
				bool first = left < middle &&
				             (right == end || rows[order[left]].start_ns <= rows[order[right]].start_ns);

				spare[at] = first ? order[left++] : order[right++];
			}
		}
		for (int64_t at = 0; at < count; at++)
			order[at] = spare[at];
	}
}

/* How many cells some calls need; more than `most_cells` where there are too many. */
static int64_t cells_for(const struct row *rows, const int64_t *order, int64_t packed, struct state *state,
                         struct cell *cells, int64_t most_cells)
{
	int64_t made = 0;

	forget_places(state);
	for (int64_t at = 0; at < packed; at++)
		if (!cell_for(&rows[order[at]], state, cells, &made, most_cells))
			return most_cells + 1;
	return made;
}

/*
 * Pack what can be; `freed` is how many rows are free then, and `places` which, by the number of their first integer.
 * Nothing is changed where that would be less than `worth`; where calls are of so many regions that their cells find no
 * space, cells become longer. `places` is space for three times `count`, `cells` for `most_cells`.
 */
void perun_pack(struct row *rows, int64_t count, struct state *state, struct cell *cells, int64_t most_cells,
                int64_t *places, int64_t worth)
{
	int64_t *order = places + count, cell_ns = state->cell_ns, packed = 0, made = 0, next = 0;

	for (int64_t at = 0; at < count; at++) {
		if (is_short(&rows[at], state->regions)) {
			places[packed] = at;
			order[packed++] = at;
		}
	}
	if (packed < worth)
		return;
	sort(rows, order, order + count, packed);
	while ((made = cells_for(rows, order, packed, state, cells, most_cells)) > most_cells && state->cell_ns < LONGEST_NS)
		state->cell_ns *= 2;
	if (made > most_cells || packed - ROWS * made < worth || has_space(places, packed) < made) {
		state->cell_ns = cell_ns;
		return;
	}
	made = 0;
	forget_places(state);
	for (int64_t at = 0; at < packed; at++) {
		const struct row *row = &rows[order[at]];

		add_call(cell_for(row, state, cells, &made, most_cells), row, &state->reach_ns[row->region]);
	}
	for (int64_t at = 0; at < packed;) {
		if (next < made && at + ROWS <= packed && places[at + ROWS - 1] == places[at] + ROWS - 1) {
			put_cell(&rows[places[at]], &cells[next++]);
			at += ROWS;
		} else {
			give_back(&rows[places[at]]);
			places[state->freed++] = SLOT * places[at++];
		}
	}
	state->cells += made;
}

/* Make cells that lie beside each other in time one, as far as that is no longer than a cell may be. */
static void join(struct row *rows, int64_t count, struct state *state, int64_t *places)
{
	int64_t *order = places + count, cells = 0;

	for (int64_t at = 0; at + ROWS <= count; at++)
		if (is_cell(&rows[at], state->regions)) {
			order[cells++] = at;
			at += ROWS - 1;
		}
	sort(rows, order, order + count, cells);
	forget_places(state);
	for (int64_t next = 0; next < cells; next++) {
		int64_t at = order[next];
		struct cell cell = get_cell(&rows[at]);
		int64_t before = state->place[cell.region];
		struct cell whole = before < 0 ? cell : get_cell(&rows[before]);
		int64_t end_ns = most(whole.last_ns, cell.last_ns), start_ns = least(whole.first_ns, cell.first_ns);
		if (before < 0 || end_ns - start_ns > state->cell_ns) {
			state->place[cell.region] = at;
		} else {
			whole = (struct cell){
				cell.region, start_ns, end_ns, whole.calls + cell.calls, whole.raised + cell.raised,
				sum(whole.total_ns, cell.total_ns), whole.covered_ns + cell.covered_ns,
				most(whole.longest_ns, cell.longest_ns), sum(whole.squares, cell.squares),
			};
			put_cell(&rows[before], &whole);
			for (int64_t row = at; row < at + ROWS; row++) {
				give_back(&rows[row]);
				places[state->freed++] = SLOT * row;
			}
			state->cells--;
		}
	}
}

/* Join cells, and make them longer for it, until there are no more than `most_cells`; adds to `freed`, `places`. */
void perun_coarsen(struct row *rows, int64_t count, struct state *state, int64_t most_cells, int64_t *places)
{
	join(rows, count, state, places);
	while (state->cells > most_cells && state->cell_ns < LONGEST_NS) {
		state->cell_ns *= 2;
		join(rows, count, state, places);
	}
}
