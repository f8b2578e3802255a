/*
 * perun-mark: puts down when calls of marked functions began and ended, in the memory where a rank keeps them.
 *
 * An extension module of the user's own Python, perun_hpc.inject.mark: CPython from 3.9 on, by its stable ABI
 * (docs.python.org/3/c-api/stable.html). What it needs of that is declared here, so that it is compiled wherever there is a C
 * compiler, and is one file for every CPython of this kind of machine; a test holds it against Python.h.
 * It keeps nothing but what it is given and calls nothing of Python's but `more`, where no row is free.
 */
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "python_abi.h"

enum { REGION, START, END, ROW };

/* A table of calls: rows of (region, start_ns, end_ns), from `rows` on; NULL once it is closed. */
struct marks {
	volatile int64_t *rows;
	int64_t numbers;
	PyObject *free; /* an iterator over the places of free rows */
	PyObject *more; /* called without arguments where there are none: a place, or a number that is none */
	struct buffer memory;
};

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static PyObject *none(void)
{
	Py_IncRef(&_Py_NoneStruct);
	return &_Py_NoneStruct;
}

static struct marks *of(PyObject *self)
{
	return PyCapsule_GetPointer(self, 0);
}

/* The place of a free row, or what `more` had instead of one. */
static PyObject *take(PyObject *self, PyObject *nothing)
{
	struct marks *marks = of(self);
	PyObject *slot = marks->free ? PyIter_Next(marks->free) : 0, *more = marks->more;

	(void)nothing;
	if (slot || PyErr_Occurred())
		return slot;
	if (!more)
		return PyLong_FromLongLong(-1);
	Py_IncRef(more); /* it may close this table */
	slot = PyObject_CallFunctionObjArgs(more, (PyObject *)0);
	Py_DecRef(more);
	return slot;
}

/* The row at a place; NULL without an exception where there is none. */
static volatile int64_t *row_at(const struct marks *marks, PyObject *slot)
{
	int64_t place = PyLong_AsLongLong(slot);

	return marks->rows && place >= 0 && place <= marks->numbers - ROW ? marks->rows + place : 0;
}

/* A call of the region begins. Its place was known before: a signal's handler may raise as soon as this returns. */
static PyObject *start(PyObject *self, PyObject *const *arguments, intptr_t count)
{
	volatile int64_t *row;
	int64_t number;

	if (count != 2) {
		PyErr_BadArgument();
		return 0;
	}
	row = row_at(of(self), arguments[0]);
	number = PyLong_AsLongLong(arguments[1]);
	if (PyErr_Occurred())
		return 0;
	if (row) {
		row[START] = now_ns(); /* before the region: a row without one is no call */
		row[REGION] = number;
	}
	return none();
}

/* It is over, if it was not before: then the row may be another call's by now. */
static PyObject *put_end(PyObject *self, PyObject *slot, int64_t sign)
{
	volatile int64_t *row = row_at(of(self), slot);

	if (!row && PyErr_Occurred())
		return 0;
	if (row && !row[END])
		row[END] = sign * now_ns();
	return none();
}

static PyObject *end(PyObject *self, PyObject *slot)
{
	return put_end(self, slot, 1);
}

static PyObject *failed(PyObject *self, PyObject *slot)
{
	return put_end(self, slot, -1);
}

static void put(PyObject **place, PyObject *object)
{
	PyObject *former = *place;

	*place = object; /* what goes may call back */
	Py_DecRef(former);
}

static PyObject *refill(PyObject *self, PyObject *free)
{
	Py_IncRef(free);
	put(&of(self)->free, free);
	return none();
}

static void shut(struct marks *marks)
{
	bool open = marks->rows;

	marks->rows = 0;
	put(&marks->free, 0);
	put(&marks->more, 0);
	if (open)
		PyBuffer_Release(&marks->memory);
}

static PyObject *shut_down(PyObject *self, PyObject *nothing)
{
	(void)nothing;
	shut(of(self));
	return none();
}

static void forget(PyObject *self)
{
	struct marks *marks = of(self);

	shut(marks);
	PyMem_Free(marks);
}

static struct method ways[] = {
	{ "take", take, METH_NOARGS, "take(): the place of a free row" },
	{ "start", (way)(void (*)(void))start, METH_FASTCALL, "start(place, region): a call begins there" },
	{ "end", end, METH_O, "end(place): it is over" },
	{ "failed", failed, METH_O, "failed(place): it is over, by an exception" },
	{ "refill", refill, METH_O, "refill(iterator): these rows are free" },
	{ "close", shut_down, METH_NOARGS, "close(): let the memory go; nothing is recorded any more" },
};
enum { WAYS = sizeof(ways) / sizeof(*ways) };

/* (take, start, end, failed, refill, close) of one table. */
static PyObject *open_table(PyObject *self, PyObject *arguments)
{
	PyObject *memory, *more, *capsule, *tuple;
	struct marks *marks;
	intptr_t offset;

	(void)self;
	if (!PyArg_ParseTuple(arguments, "OnO:marks", &memory, &offset, &more))
		return 0;
	marks = PyMem_Calloc(1, sizeof(*marks));
	if (!marks)
		return PyErr_NoMemory();
	if (PyObject_GetBuffer(memory, &marks->memory, PyBUF_WRITABLE)) {
		PyMem_Free(marks);
		return 0;
	}
	if (offset < 0 || offset > marks->memory.len || offset % (intptr_t)sizeof(int64_t)) {
		PyErr_BadArgument();
		PyBuffer_Release(&marks->memory);
		PyMem_Free(marks);
		return 0;
	}
	marks->rows = (int64_t *)((char *)marks->memory.buf + offset);
	marks->numbers = (marks->memory.len - offset) / (intptr_t)sizeof(int64_t);
	Py_IncRef(more);
	marks->more = more;
	capsule = PyCapsule_New(marks, 0, forget);
	if (!capsule) {
		shut(marks);
		PyMem_Free(marks);
		return 0;
	}
	tuple = PyTuple_New(WAYS);
	for (int at = 0; tuple && at < WAYS; at++) {
		PyObject *one = PyCFunction_NewEx(&ways[at], capsule, 0);

		if (!one || PyTuple_SetItem(tuple, at, one)) {
			Py_DecRef(tuple);
			tuple = 0;
		}
	}
	Py_DecRef(capsule);
	return tuple;
}

static struct method functions[] = {
	{ "marks", open_table, METH_VARARGS, "marks(memory, offset, more): take, start, end, failed, refill, close" },
	{ 0, 0, 0, 0 },
};

static struct module module = { .base = MODULE_BASE, .name = "mark", .methods = functions };

/* In two phases, without a word on interpreters with a lock of their own, nor on threads without one: neither loads it. */
__attribute__((visibility("default"))) PyObject *PyInit_mark(void)
{
	return PyModuleDef_Init(&module);
}
