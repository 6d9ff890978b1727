#include "agent/heap/kind_bases.h"

#define AT(name) offsetof(layout_t, name)
#define ATTRIBUTE(at, name)                                                                        \
    { AT(at), LOWTIDE_ATTRIBUTE, name, false }
#define FIELD(at, name)                                                                            \
    { AT(at), LOWTIDE_FIELD, name, false }
#define BORROWED(at, name)                                                                         \
    { AT(at), LOWTIDE_FIELD, name, true }
#define END                                                                                        \
    { 0, 0, NULL, false }
#define TYPE(name) offsetof(rt_t, types.name)

static const base_field_t none[] = {END};
static const base_field_t function[] = {ATTRIBUTE(function_code, "__code__"),
                                        ATTRIBUTE(function_globals, "__globals__"),
                                        ATTRIBUTE(function_builtins, "__builtins__"),
                                        ATTRIBUTE(function_name, "__name__"),
                                        ATTRIBUTE(function_qualname, "__qualname__"),
                                        ATTRIBUTE(function_defaults, "__defaults__"),
                                        ATTRIBUTE(function_kwdefaults, "__kwdefaults__"),
                                        ATTRIBUTE(function_closure, "__closure__"),
                                        ATTRIBUTE(function_doc, "__doc__"),
                                        ATTRIBUTE(function_module, "__module__"),
                                        ATTRIBUTE(function_annotations, "__annotations__"),
                                        ATTRIBUTE(function_annotate, "__annotate__"),
                                        ATTRIBUTE(function_typeparams, "__type_params__"),
                                        END};
static const base_field_t cfunction[] = {ATTRIBUTE(cfunction_self, "__self__"),
                                         ATTRIBUTE(cfunction_module, "__module__"), END};
static const base_field_t cmethod[] = {ATTRIBUTE(cfunction_self, "__self__"),
                                       ATTRIBUTE(cfunction_module, "__module__"),
                                       FIELD(cmethod_class, "class"), END};
static const base_field_t method[] = {ATTRIBUTE(method_func, "__func__"),
                                      ATTRIBUTE(method_self, "__self__"), END};
static const base_field_t cell[] = {{AT(cell_ref), LOWTIDE_CELL, "", false}, END};
static const base_field_t weak_reference[] = {BORROWED(weakref_object, "referent"),
                                              ATTRIBUTE(weakref_callback, "__callback__"), END};
static const base_field_t module[] = {ATTRIBUTE(module_dict, "__dict__"),
                                      FIELD(module_name, "name"), END};
static const base_field_t traceback[] = {ATTRIBUTE(traceback_next, "tb_next"),
                                         ATTRIBUTE(traceback_frame, "tb_frame"), END};
static const base_field_t exception[] = {ATTRIBUTE(exception_dict, "__dict__"),
                                         ATTRIBUTE(exception_args, "args"),
                                         FIELD(exception_notes, "notes"),
                                         ATTRIBUTE(exception_traceback, "__traceback__"),
                                         ATTRIBUTE(exception_context, "__context__"),
                                         ATTRIBUTE(exception_cause, "__cause__"),
                                         END};
static const base_field_t descriptor[] = {ATTRIBUTE(descr_type, "__objclass__"),
                                          ATTRIBUTE(descr_name, "__name__"),
                                          FIELD(descr_qualname, "qualname"), END};
static const base_field_t slice[] = {ATTRIBUTE(slice_start, "start"), ATTRIBUTE(slice_stop, "stop"),
                                     ATTRIBUTE(slice_step, "step"), END};
static const base_field_t range[] = {ATTRIBUTE(range_start, "start"), ATTRIBUTE(range_stop, "stop"),
                                     ATTRIBUTE(range_step, "step"), FIELD(range_length, "length"),
                                     END};
static const base_field_t code[] = {ATTRIBUTE(code_consts, "co_consts"),
                                    ATTRIBUTE(code_names, "co_names"),
                                    ATTRIBUTE(code_exceptiontable, "co_exceptiontable"),
                                    FIELD(code_localsplusnames, "localsplusnames"),
                                    FIELD(code_localspluskinds, "localspluskinds"),
                                    ATTRIBUTE(code_filename, "co_filename"),
                                    ATTRIBUTE(code_name, "co_name"),
                                    ATTRIBUTE(code_qualname, "co_qualname"),
                                    ATTRIBUTE(code_linetable, "co_linetable"),
                                    FIELD(code_code, "code"),
                                    END};

static const base_row_t rows[] = {
    {TYPE(object), FAMILY_PLAIN, none},
    {TYPE(integer), FAMILY_PLAIN, none},
    {TYPE(boolean), FAMILY_PLAIN, none},
    {TYPE(real), FAMILY_PLAIN, none},
    {TYPE(complex_number), FAMILY_PLAIN, none},
    {TYPE(str), FAMILY_PLAIN, none},
    {TYPE(bytes), FAMILY_PLAIN, none},
    {TYPE(bytearray), FAMILY_PLAIN, none},
    {TYPE(none), FAMILY_PLAIN, none},
    {TYPE(dict), FAMILY_DICT, none},
    {TYPE(list), FAMILY_LIST, none},
    {TYPE(tuple), FAMILY_TUPLE, none},
    {TYPE(set), FAMILY_SET, none},
    {TYPE(frozenset), FAMILY_SET, none},
    {TYPE(type), FAMILY_TYPE, none},
    {TYPE(code), FAMILY_CODE, code},
    {TYPE(generator), FAMILY_GENERATOR, none},
    {TYPE(coroutine), FAMILY_GENERATOR, none},
    {TYPE(async_generator), FAMILY_GENERATOR, none},
    {TYPE(frame), FAMILY_FRAME, none},
    {TYPE(function), FAMILY_PLAIN, function},
    {TYPE(cfunction), FAMILY_PLAIN, cfunction},
    {TYPE(cmethod), FAMILY_PLAIN, cmethod},
    {TYPE(method), FAMILY_PLAIN, method},
    {TYPE(cell), FAMILY_PLAIN, cell},
    {TYPE(weak_reference), FAMILY_PLAIN, weak_reference},
    {TYPE(weak_proxy), FAMILY_PLAIN, weak_reference},
    {TYPE(weak_callable_proxy), FAMILY_PLAIN, weak_reference},
    {TYPE(module), FAMILY_TRAVERSE, module},
    {TYPE(traceback), FAMILY_PLAIN, traceback},
    {TYPE(base_exception), FAMILY_TRAVERSE, exception},
    {TYPE(member_descr), FAMILY_PLAIN, descriptor},
    {TYPE(getset_descr), FAMILY_PLAIN, descriptor},
    {TYPE(method_descr), FAMILY_PLAIN, descriptor},
    {TYPE(class_method_descr), FAMILY_PLAIN, descriptor},
    {TYPE(wrapper_descr), FAMILY_PLAIN, descriptor},
    {TYPE(slice), FAMILY_PLAIN, slice},
    {TYPE(range), FAMILY_PLAIN, range},
};

const base_row_t *base_find(const rt_t *rt, rt_addr_t type) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rt_addr_t known;
        memcpy(&known, (const char *)rt + rows[i].type, sizeof known);
        if (known == type) return rows + i;
    }
    return NULL;
}
