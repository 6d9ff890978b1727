#define _GNU_SOURCE
#include "base/mem.h"
#include "base/varint.h"
#include "format/rec_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

int rec_unfold(rec_unfold_t *zstd, uint8_t *out, size_t raw, const uint8_t *in, size_t stored) {
    if (!zstd->context) {
        zstd->bytes = ZSTD_estimateDCtxSize();
        zstd->memory = mem_map(zstd->bytes);
        if (!zstd->memory) return -ENOMEM;
        zstd->context = ZSTD_initStaticDCtx(zstd->memory, zstd->bytes);
    }
    if (!zstd->context) return -ENOMEM;
    size_t got = ZSTD_decompressDCtx(zstd->context, out, raw, in, stored);
    return ZSTD_isError(got) || got != raw ? -EBADMSG : 0;
}

void rec_unfold_free(rec_unfold_t *zstd) {
    mem_unmap(zstd->memory, zstd->bytes);
    *zstd = (rec_unfold_t){0};
}

/* The file's header. */

static int rec_header_check(const lowtide_recording *rec, err_t *e) {
    rec_file_header_t header;
    size_t n = rec->size < sizeof header ? rec->size : sizeof header;
    if (!n) {
        return err_set(e, -EBADMSG, "%s is empty: whatever was to write it did not come to it",
                       rec->name);
    }
    memset(&header, 0, sizeof header);
    memcpy(&header, rec->bytes, n);
    size_t magic = n < sizeof header.magic ? n : sizeof header.magic;
    if (memcmp(header.magic, REC_MAGIC, magic) != 0) {
        return err_set(e, -EBADMSG,
                       "%s is not a lowtide recording; lowtide dump and lowtide run make one",
                       rec->name);
    }
    if (n < sizeof header) {
        return err_set(e, -EBADMSG, "%s is cut within its first %d bytes: nothing can be read",
                       rec->name, REC_HEADER_BYTES);
    }
    if (rec_checksum(&header, REC_CHECKED_BYTES) != header.checksum && !rec_checksums_ignored) {
        return err_set(e, -EBADMSG, "%s is damaged within its first %d bytes: nothing can be read",
                       rec->name, REC_HEADER_BYTES);
    }
    if (header.major != REC_MAJOR) {
        return err_set(e, header.major > REC_MAJOR ? -ENOTSUP : -EBADMSG,
                       "%s has format %u.%u, and this lowtide reads up to %d.x: use the lowtide "
                       "that wrote it, or a newer one",
                       rec->name, header.major, header.minor, REC_MAJOR);
    }
    return 0;
}

/* Sections. Each check returns 0, -ENOMEM, or -EBADMSG with *why: there the recording ends. */

static int rec_bad(const char **why, const char *reason) {
    *why = reason;
    return -EBADMSG;
}

static int rec_section_check(const lowtide_recording *rec, size_t at, uint32_t sequence,
                             rec_section_t *section, const char **why) {
    size_t left = rec->size - at;
    if (!left) return rec_bad(why, "it ends before the writer was done");
    if (left < sizeof *section) return rec_bad(why, "it ends within a section");
    memcpy(section, rec->bytes + at, sizeof *section);
    if (memcmp(section->magic, REC_SECTION_MAGIC, sizeof section->magic) != 0) {
        return rec_bad(why, "no section begins where one should");
    }
    if (section->stored_bytes > left - sizeof *section) {
        return rec_bad(why, "it ends within a section");
    }
    const uint8_t *payload = rec->bytes + at + sizeof *section;
    if (rec_section_checksum(section, payload, section->stored_bytes) != section->checksum &&
        !rec_checksums_ignored) {
        return rec_bad(why, "a section's checksum does not match");
    }
    if (section->sequence != sequence) return rec_bad(why, "a section is missing");
    if (section->stored_bytes > REC_SECTION_BYTES_MOST) {
        return rec_bad(why, "a section is larger than the format allows");
    }
    if (!(section->flags & REC_SECTION_ZSTD) && section->raw_bytes != section->stored_bytes) {
        return rec_bad(why, "a section's sizes do not agree");
    }
    return 0;
}

static int rec_side_take(lowtide_recording *rec, const rec_section_t *section,
                         const uint8_t *payload, const char **why) {
    static int (*const take[])(lowtide_recording *, const uint8_t *, const uint8_t *,
                               const char **) = {[REC_META] = rec_meta_take,
                                                 [REC_STRINGS] = rec_strings_take,
                                                 [REC_SHAPES] = rec_shapes_take};
    size_t raw = section->raw_bytes;
    if (raw > REC_SIDE_BYTES_MOST - rec->side_bytes)
        return rec_bad(why, "there are too many names");
    rec->side_bytes += raw;
    if (!(section->flags & REC_SECTION_ZSTD)) {
        return take[section->kind](rec, payload, payload + raw, why);
    }
    rec_unfold_t zstd = {0};
    uint8_t *unfolded = mem_map(raw + 1);
    int status = -ENOMEM;
    if (!unfolded) goto cleanup;
    *why = "a section does not unfold";
    status = rec_unfold(&zstd, unfolded, raw, payload, section->stored_bytes);
    if (!status) status = take[section->kind](rec, unfolded, unfolded + raw, why);
cleanup:
    mem_unmap(unfolded, raw + 1);
    rec_unfold_free(&zstd);
    return status;
}

static int rec_objects_take(lowtide_recording *rec, const rec_section_t *section,
                            const uint8_t *payload, const char **why) {
    rec_head_t head;
    if (section->flags & REC_SECTION_ZSTD) return rec_bad(why, "a chunk is folded as a whole");
    int status = rec_head_read(payload, payload + section->stored_bytes, &head, why);
    if (status) return status;
    if (head.first != rec->objects || head.count > UINT32_MAX - 1 - rec->objects) {
        return rec_bad(why, "a chunk's ids do not follow");
    }
    rec_place_t place = {.payload = (uint64_t)(payload - rec->bytes),
                         .bytes = section->stored_bytes,
                         .first = head.first,
                         .count = head.count};
    if (rec_places_push(&rec->chunks, place)) return -ENOMEM;
    rec->objects += head.count;
    rec->references += head.references;
    return 0;
}

static int rec_end_take(lowtide_recording *rec, const uint8_t *p, const uint8_t *end,
                        const char **why) {
    uint64_t count[4];
    for (int i = 0; i < 4; i++) {
        p = varint_get(p, end, &count[i]);
        if (!p) return rec_bad(why, "the last section makes no sense");
    }
    if (count[0] != rec->objects || count[1] != rec->references || count[2] > rec->objects) {
        return rec_bad(why, "the last section counts otherwise");
    }
    rec->reached = (uint32_t)count[2];
    rec->whole = 1;
    return 0;
}

static int rec_section_take(lowtide_recording *rec, const rec_section_t *section,
                            const uint8_t *payload, const char **why) {
    if (rec->whole && section->kind >= REC_STRINGS && section->kind <= REC_END) {
        return rec_bad(why, "objects stand behind the end");
    }
    switch (section->kind) {
    case REC_META:
    case REC_STRINGS:
    case REC_SHAPES:
        return rec_side_take(rec, section, payload, why);
    case REC_OBJECTS:
        return rec_objects_take(rec, section, payload, why);
    case REC_END:
        return rec_end_take(rec, payload, payload + section->stored_bytes, why);
    case REC_TABLE:
        if (section->flags & REC_SECTION_ZSTD) return rec_bad(why, "a table is folded as a whole");
        return rec_table_take(rec, payload, payload + section->stored_bytes, why);
    case REC_NESTED:
        if (section->flags & REC_SECTION_ZSTD) {
            return rec_bad(why, "a recording within it is folded");
        }
        return rec_nested_take(rec, payload, payload + section->stored_bytes, why);
    default:
        return 0;
    }
}

/* What is there of a recording that is not whole. */
static int rec_cut_take(lowtide_recording *rec, size_t at, uint32_t sequence, const char *why,
                        err_t *e) {
    int status = rec->whole ? 0 : rec_references_count(rec);
    if (status) return err_sys(e, status, "cannot read %s", rec->name);
    if (rec->objects) {
        err_set(&rec->cut, 0,
                "%s is incomplete: %s (section %u, byte %zu); its first %u objects are read",
                rec->name, why, sequence, at, rec->objects);
    } else if (rec->tables.count || rec->nested.count) {
        err_set(&rec->cut, 0,
                "%s is incomplete: %s (section %u, byte %zu); what stands before that is read",
                rec->name, why, sequence, at);
    } else {
        return err_set(e, -EBADMSG,
                       "%s cannot be read: %s, before the first object (section %u, byte %zu)",
                       rec->name, why, sequence, at);
    }
    if (!rec->whole) rec->reached = rec->objects;
    return 0;
}

/* Types that the recording does not hold, because it was cut, are no types. */
static void rec_types_check(lowtide_recording *rec) {
    for (size_t i = 0; i < rec->shapes.count; i++) {
        if (rec->shapes.at[i].type >= rec->objects) rec->shapes.at[i].type = LOWTIDE_NONE;
    }
}

static int rec_scan(lowtide_recording *rec, err_t *e) {
    const char *why = NULL;
    size_t at = REC_HEADER_BYTES;
    uint32_t sequence = 0;
    int status = rec_header_check(rec, e);
    if (status) return status;
    memcpy(&rec->captured_ns, rec->bytes + offsetof(rec_file_header_t, captured_ns),
           sizeof rec->captured_ns);
    uint16_t minor;
    memcpy(&minor, rec->bytes + offsetof(rec_file_header_t, minor), sizeof minor);
    /* Behind END nothing is missing where the file ends; in 1.0 nothing stands there. */
    while (!rec->whole || (minor > 0 && at < rec->size)) {
        rec_section_t section;
        status = rec_section_check(rec, at, sequence, &section, &why);
        if (!status) {
            status = rec_section_take(rec, &section, rec->bytes + at + sizeof section, &why);
        }
        if (status == -EBADMSG) break;
        if (status) return err_sys(e, status, "cannot read %s", rec->name);
        at += sizeof section + section.stored_bytes;
        sequence++;
    }
    if (status) {
        status = rec_cut_take(rec, at, sequence, why, e);
    } else if (!rec->objects && !rec->tables.count && !rec->nested.count) {
        status = err_set(e, -EBADMSG, "%s holds nothing", rec->name);
    }
    rec_types_check(rec);
    return status;
}

/* Opening and closing. */

static int rec_begin(const char *name, const void *bytes, size_t n, int mapped,
                     lowtide_recording **out, err_t *e) {
    lowtide_recording *rec = mem_map(sizeof *rec);
    int status = -ENOMEM;
    if (!rec) {
        if (mapped) munmap((void *)(uintptr_t)bytes, n);
        return err_sys(e, status, "cannot read %s", name);
    }
    rec->bytes = bytes;
    rec->size = n;
    rec->mapped = mapped;
    rec->name = arena_text(&rec->arena, name, strlen(name));
    status = rec->name ? rec_scan(rec, e) : err_sys(e, status, "cannot read %s", name);
    if (status) {
        lowtide_close(rec);
        return status;
    }
    *out = rec;
    return 0;
}

int lowtide_open_memory(const void *bytes, size_t n, lowtide_recording **out,
                        lowtide_error *error) {
    *out = NULL;
    return rec_begin("the recording", bytes, n, 0, out, rec_err(error));
}

int lowtide_open(const char *path, lowtide_recording **out, lowtide_error *error) {
    err_t *e = rec_err(error);
    struct stat st;
    void *bytes = NULL;
    int status = 0;
    *out = NULL;
    /* Without waiting for a writer, should it be a pipe. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        status = err_sys(e, -errno, "cannot open %s", path);
    } else if (S_ISDIR(st.st_mode)) {
        status = err_set(e, -EISDIR, "%s is a directory; name a recording in it", path);
    } else if (!S_ISREG(st.st_mode)) {
        status =
            err_set(e, -EINVAL, "%s is not a file; write the recording to one, then name it", path);
    } else if (st.st_size > 0) {
        bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) status = err_sys(e, -errno, "cannot read %s", path);
    }
    if (fd >= 0) close(fd);
    if (status) return status;
    return rec_begin(path, bytes, (size_t)st.st_size, bytes != NULL, out, e);
}

void lowtide_close(lowtide_recording *rec) {
    if (!rec) return;
    for (int i = 0; i < REC_CACHE_CHUNKS; i++) lowtide_chunk_free(rec->cache[i].chunk);
    if (rec->mapped) munmap((void *)(uintptr_t)rec->bytes, rec->size);
    rec_texts_free(&rec->texts);
    rec_offsets_free(&rec->strings);
    rec_pairs_free(&rec->meta);
    rec_shapes_free(&rec->shapes);
    rec_codes_free(&rec->codes);
    rec_places_free(&rec->chunks);
    rec_offsets_free(&rec->table_names);
    rec_parts_free(&rec->tables);
    rec_parts_free(&rec->nested);
    arena_free(&rec->arena);
    mem_unmap(rec, sizeof *rec);
}

void lowtide_release_pages(const lowtide_recording *rec) {
    if (rec->mapped) (void)madvise((void *)(uintptr_t)rec->bytes, rec->size, MADV_DONTNEED);
}

const char *lowtide_cut(const lowtide_recording *rec) {
    return rec->cut.text[0] ? rec->cut.text : NULL;
}

uint64_t lowtide_file_bytes(const lowtide_recording *rec) {
    return rec->size;
}

uint64_t lowtide_captured_ns(const lowtide_recording *rec) {
    return rec->captured_ns;
}

uint32_t lowtide_objects(const lowtide_recording *rec) {
    return rec->objects;
}

uint64_t lowtide_references(const lowtide_recording *rec) {
    return rec->references;
}

uint32_t lowtide_reached(const lowtide_recording *rec) {
    return rec->reached;
}

uint32_t lowtide_chunks(const lowtide_recording *rec) {
    return (uint32_t)rec->chunks.count;
}
