#define _GNU_SOURCE
#include "agent/runtime/runtime_internal.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define RT_MINOR_MIN 11
#define RT_MINOR_MAX 15

/* Where process_vm_readv is filtered (seccomp in older containers), the kernel still lets a process
 * read its own memory as a file. */
static int peek_by_file(rt_addr_t from, void *to, size_t n) {
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t got = pread(fd, to, n, (off_t)from);
    close(fd);
    return got == (ssize_t)n ? 0 : -EFAULT;
}

int rt_peek(rt_addr_t from, void *to, size_t n) {
    struct iovec local = {to, n}, remote = {(void *)from, n};
    ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (got == (ssize_t)n) return 0;
    if (got < 0 && errno != EFAULT) return peek_by_file(from, to, n);
    return -EFAULT;
}

struct holder {
    char name[512];
    bool found;
};

/* Does this loaded object define _PyRuntime? The dynamic symbol table is asked through
 * dlopen(RTLD_NOLOAD). */
static int find_holder(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct holder *h = arg;
    const char *base = strrchr(info->dlpi_name, '/');
    base = base ? base + 1 : info->dlpi_name;
    if (strncmp(base, "libpython", 9) || strlen(info->dlpi_name) >= sizeof h->name) return 0;
    memcpy(h->name, info->dlpi_name, strlen(info->dlpi_name) + 1);
    h->found = true;
    return 1;
}

/* Where dlsym finds Python: the global scope (RTLD_DEFAULT, which is a null pointer), or a
 * libpython that was loaded into a scope of its own. */
static bool find_python(void **scope) {
    *scope = RTLD_DEFAULT;
    if (dlsym(RTLD_DEFAULT, "_PyRuntime")) return true;
    struct holder h = {0};
    dl_iterate_phdr(find_holder, &h);
    void *handle = h.found ? dlopen(h.name, RTLD_NOLOAD | RTLD_LAZY) : NULL;
    if (!handle) return false;
    *scope = handle;
    if (dlsym(handle, "_PyRuntime")) return true;
    dlclose(handle);
    return false;
}

static int refuse_stranger(err_t *e) {
    if (dlsym(RTLD_DEFAULT, "PyPy_setup_home") || dlsym(RTLD_DEFAULT, "PyPyLong_FromLong"))
        return err_set(e, -ENOSYS, "this is PyPy; lowtide observes CPython 3.11 to 3.15");
    const char *(*version)(void);
    *(void **)&version = dlsym(RTLD_DEFAULT, "Py_GetVersion");
    if (version) {
        const char *text = version();
        return err_set(e, -ENOSYS, "CPython %.*s is not supported; lowtide observes 3.11 to 3.15",
                       (int)strcspn(text, " "), text);
    }
    return err_set(e, -ENOSYS, "not a Python process: nothing in it defines _PyRuntime");
}

static int load_symbols(rt_t *rt, void *scope, err_t *e) {
    rt->runtime = (rt_addr_t)dlsym(scope, "_PyRuntime");
    rt->py_none = (rt_addr_t)dlsym(scope, "_Py_NoneStruct");
    rt->py_true = (rt_addr_t)dlsym(scope, "_Py_TrueStruct");
    rt->py_false = (rt_addr_t)dlsym(scope, "_Py_FalseStruct");
#define LOAD(name, result, arguments, needed)                                                      \
    *(void **)&rt->name = dlsym(scope, #name);                                                     \
    if (needed && !rt->name)                                                                       \
        return err_set(e, -ENOSYS, "this Python hides its C API (no %s); it cannot be observed",   \
                       #name);
    RT_FUNCTIONS(LOAD)
#undef LOAD
#define LOAD(name, symbol) rt->types.name = (rt_addr_t)dlsym(scope, #symbol);
    RT_TYPES(LOAD)
#undef LOAD
    rt_addr_t base_exception = rt->types.base_exception; /* a variable that points to the type */
    if (base_exception)
        memcpy(&rt->types.base_exception, (void *)base_exception, sizeof(rt_addr_t));
    if (!rt->py_none || !rt->types.type || !rt->types.object)
        return err_set(e, -ENOSYS,
                       "this Python hides its C API (no PyType_Type); it cannot be observed");
    return 0;
}

int rt_table_distance(const rt_t *rt, const layout_t *t) {
    if (t->version >> 16 != rt->version >> 16 || t->debug != rt->debug) return -1;
    return abs((int)(t->version & 0xffff) - (int)(rt->version & 0xffff));
}

static int choose_table(rt_t *rt, err_t *e) {
    int best = -1;
    for (size_t i = 0; i < layout_table_count; i++) {
        int d = rt_table_distance(rt, &layout_tables[i]);
        if (d >= 0 && !rt_claims_agree(rt, &layout_tables[i])) d += 1 << 16;
        if (d >= 0 && (best < 0 || d < best)) {
            best = d;
            rt->layout = &layout_tables[i];
        }
    }
    if (best < 0)
        return err_set(e, -ENOSYS,
                       "no layout table is for CPython %s; lowtide observes 3.11 to 3.15",
                       rt->version_text);
    return 0;
}

static int load_python(rt_t *rt, void *scope, err_t *e) {
    const unsigned long *version = dlsym(scope, "Py_Version");
    if (!version) return refuse_stranger(e);
    rt->version = (uint32_t)*version;
    rt->minor = (int)(rt->version >> 16 & 0xff);
    rt->debug = dlsym(scope, "_Py_NegativeRefcount") != NULL;
    int err = load_symbols(rt, scope, e);
    if (err) return err;
    const char *text = rt->Py_GetVersion();
    snprintf(rt->version_text, sizeof rt->version_text, "%.*s%s", (int)strcspn(text, " "), text,
             rt->debug ? " (debug)" : "");
    if (rt->version >> 24 != 3 || rt->minor < RT_MINOR_MIN || rt->minor > RT_MINOR_MAX)
        return err_set(e, -ENOSYS, "CPython %s is not supported; lowtide observes 3.11 to 3.15",
                       rt->version_text);
    if (strstr(text, "free-threading"))
        return err_set(e, -ENOSYS,
                       "CPython %s is a free-threaded build, which lowtide cannot observe yet",
                       rt->version_text);
    return choose_table(rt, e);
}

int rt_find(rt_t *rt, err_t *e) {
    memset(rt, 0, sizeof *rt);
    void *scope;
    if (!find_python(&scope)) return refuse_stranger(e);
    int err = load_python(rt, scope, e);
    /* The library is Python's own and stays loaded without our reference to it. */
    if (scope != RTLD_DEFAULT) dlclose(scope);
    return err;
}

int rt_ready(const rt_t *rt, err_t *e) {
    if (!rt->Py_IsInitialized())
        return err_set(e, -EAGAIN, "Python is not initialised yet; try again when it runs");
    int (*finalizing)(void) = rt->Py_IsFinalizing ? rt->Py_IsFinalizing : rt->_Py_IsFinalizing;
    if (finalizing && finalizing()) return err_set(e, -EAGAIN, "Python is shutting down");
    return 0;
}

static void add_range(rt_t *rt, rt_addr_t begin, rt_addr_t end, uint32_t kind) {
    if (rt->range_count == RT_RANGES_MAX) return;
    uint32_t i = rt->range_count++;
    for (; i > 0 && rt->ranges[i - 1].begin > begin; i--) rt->ranges[i] = rt->ranges[i - 1];
    rt->ranges[i] = (rt_range_t){begin, end, kind};
}

static int add_object(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    rt_t *rt = arg;
    bool core = strstr(info->dlpi_name, "/lib-dynload/") != NULL;
    for (int i = 0; i < info->dlpi_phnum && !core; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        core = p->p_type == PT_LOAD && rt->runtime - (info->dlpi_addr + p->p_vaddr) < p->p_memsz;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        rt_addr_t begin = info->dlpi_addr + p->p_vaddr;
        if (p->p_type != PT_LOAD) continue;
        if (p->p_flags & PF_W) add_range(rt, begin, begin + p->p_memsz, RT_RANGE_DATA);
        if (p->p_flags & PF_X && core) add_range(rt, begin, begin + p->p_memsz, RT_RANGE_CORE_TEXT);
    }
    return 0;
}

int rt_refresh(rt_t *rt, err_t *e) {
    if (!rt->ranges) rt->ranges = mem_map(RT_RANGES_MAX * sizeof *rt->ranges);
    if (!rt->ranges) return err_set(e, -ENOMEM, "out of memory");
    rt->range_count = 0;
    dl_iterate_phdr(add_object, rt);
    return 0;
}

static bool in_range(const rt_t *rt, rt_addr_t address, uint32_t kind) {
    uint32_t low = 0, high = rt->range_count;
    while (low < high) { /* the last range that begins at or below the address */
        uint32_t mid = (low + high) / 2;
        if (rt->ranges[mid].begin <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low > 0 && address < rt->ranges[low - 1].end && rt->ranges[low - 1].kind == kind;
}

bool rt_symbol_in_core(const rt_t *rt, rt_addr_t address) {
    return in_range(rt, address, RT_RANGE_CORE_TEXT);
}
bool rt_is_static(const rt_t *rt, rt_addr_t address) {
    return in_range(rt, address, RT_RANGE_DATA);
}

void rt_close(rt_t *rt) {
    mem_unmap(rt->ranges, RT_RANGES_MAX * sizeof *rt->ranges);
    rt->ranges = NULL;
    rt->range_count = 0;
}
