/* The references of one object, family by family. Each adds the object's repeated edges with walk_edge; the fixed ones (class,
 * fields, dict, inline attributes) are there already. Returns the shape to write the object with. */
#ifndef LOWTIDE_HEAP_EDGES_H
#define LOWTIDE_HEAP_EDGES_H

#include "agent/heap/kinds.h"

/* What the writer needs to know of an object beside its edges. */
typedef struct edges_form {
    uint32_t shape;
    uint32_t fixed;  /* labels that are fixed */
    uint32_t repeat; /* 0, 1 or 2 */
} edges_form_t;

/* Of the object at hand (k->address). `tag`: what is known of it beside. */
edges_form_t edges_gather(walk_t *k, kind_t *t, unsigned tag);

edges_form_t edges_dict(walk_t *k, kind_t *t, unsigned tag);
edges_form_t edges_type(walk_t *k, kind_t *t);
edges_form_t edges_code(walk_t *k, kind_t *t);
edges_form_t edges_traverse(walk_t *k, kind_t *t);
/* What the tp_traverse of a metaclass made in C tells of a type beyond the edges gathered. */
void edges_metatype(walk_t *k, kind_t *t);
edges_form_t edges_generator(walk_t *k, kind_t *t);
edges_form_t edges_frame_object(walk_t *k, kind_t *t);
/* CLASS, fields, __dict__ and inline attributes. */
void edges_fixed(walk_t *k, const kind_t *t);

/* Locals and stack of a frame. The shape is one for each code object, `variant` telling the kinds of owner apart; the labels
 * before the locals are put into k->labels by the caller, who has added their edges. */
typedef struct edges_frame {
    uint8_t kind; /* of the shape */
    unsigned variant;
    uint32_t flags, type, name, module;
    uint32_t label_count;
    bool borrowed; /* the frame's references are counted elsewhere */
} edges_frame_t;
/* A frame on a thread's stack, as a pseudo-object. */
edges_form_t edges_thread_frame(walk_t *k, const rt_frame_t *frame);
edges_form_t edges_locals(walk_t *k, const rt_frame_t *frame, const edges_frame_t *how);

#endif
