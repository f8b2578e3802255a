/*
 * What perun-mark uses of CPython's stable ABI, as of 3.9: names, layouts and numbers that no later version changes, on
 * builds with the global interpreter lock. (Buffers joined it with 3.11, METH_FASTCALL with
 * 3.10, and were the same before.)
 */
#ifndef PERUN_PYTHON_ABI_H
#define PERUN_PYTHON_ABI_H

#include <stdint.h>

typedef struct object PyObject;

typedef PyObject *(*way)(PyObject *self, PyObject *argument);

struct method {
	const char *name;
	way call; /* with METH_FASTCALL one of (PyObject *self, PyObject *const *arguments, intptr_t count) */
	int flags;
	const char *doc;
};
enum { METH_VARARGS = 1, METH_NOARGS = 4, METH_O = 8, METH_FASTCALL = 128 };

struct module {
	struct {
		intptr_t references;
		void *type, *init;
		intptr_t index;
		void *copy;
	} base;
	const char *name, *doc;
	intptr_t size;
	struct method *methods;
	void *slots, *traverse, *clear, *free;
};
#define MODULE_BASE { 1, 0, 0, 0, 0 }

struct buffer {
	void *buf;
	PyObject *object;
	intptr_t len, itemsize;
	int readonly, ndim;
	char *format;
	intptr_t *shape, *strides, *suboffsets;
	void *internal;
};
enum { PyBUF_WRITABLE = 1 };

extern PyObject _Py_NoneStruct;

int PyArg_ParseTuple(PyObject *arguments, const char *format, ...);
void PyBuffer_Release(struct buffer *buffer);
void *PyCapsule_GetPointer(PyObject *capsule, const char *name);
PyObject *PyCapsule_New(void *pointer, const char *name, void (*destructor)(PyObject *capsule));
PyObject *PyCFunction_NewEx(struct method *method, PyObject *self, PyObject *module);
int PyErr_BadArgument(void);
PyObject *PyErr_NoMemory(void);
PyObject *PyErr_Occurred(void);
PyObject *PyIter_Next(PyObject *iterator);
long long PyLong_AsLongLong(PyObject *number);
PyObject *PyLong_FromLongLong(long long number);
void *PyMem_Calloc(uintptr_t count, uintptr_t size);
void PyMem_Free(void *memory);
PyObject *PyModuleDef_Init(struct module *module);
PyObject *PyObject_CallFunctionObjArgs(PyObject *callable, ...);
int PyObject_GetBuffer(PyObject *object, struct buffer *buffer, int flags);
PyObject *PyTuple_New(intptr_t size);
int PyTuple_SetItem(PyObject *tuple, intptr_t at, PyObject *object);
void Py_DecRef(PyObject *object);
void Py_IncRef(PyObject *object);

#endif
