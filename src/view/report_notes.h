/* What a report says before its findings, or in their place: memory that no object has, and a heap that is missing. */
#ifndef LOWTIDE_VIEW_REPORT_NOTES_H
#define LOWTIDE_VIEW_REPORT_NOTES_H

#include "view/report_view.h"

enum { REPORT_NOTE_ROOM = 1024 };

/* Resident memory of allocators and mappings beyond what Python's objects take: what C code has for itself. false: not known. */
bool report_native_bytes(const report_t *r, uint64_t *bytes);
/* A snapshot knows the objects alone. Where most of the memory is not theirs, it says how to learn whose it is; else false. */
bool report_native_note(const report_t *r, char note[REPORT_NOTE_ROOM]);
/* Why there is no heap, where there should be one: "app.py was ended by SIGTERM"; or NULL. */
const char *report_missing(const report_t *r);
/* What is not known for want of a heap, and what is; false: it is there, or was not asked for. */
bool report_missing_note(const report_t *r, char note[REPORT_NOTE_ROOM]);
/* Of several processes: whose heap it is. A server's master has nothing, its workers do. false: there is one, or no heap. */
bool report_whose_note(const report_t *r, char note[REPORT_NOTE_ROOM]);

#endif
