/* Which objects of one recording were not there in an earlier one of the same process, for lowtide.scope.
 *
 * An object is known by its address and its type: one that died and whose place another of its type took counts as
 * the old one. So what is told was certainly born in between, and may not be all of it. */
#ifndef LOWTIDE_BIND_BORN_H
#define LOWTIDE_BIND_BORN_H

/* born(before, after: paths) -> [(type, count, bytes, address of the largest)]. Lets go of the GIL. */
PyObject *core_born(PyObject *module, PyObject *args);

/* clang-format off */
#define BORN_CALLS \
    {"born", core_born, METH_VARARGS, PyDoc_STR("born(before, after) -> [(type, count, bytes, address)]")}
/* clang-format on */

#endif
