#define _GNU_SOURCE
#include "view/html_page.h"
#include "view/html_tree.h"
#include "view/report_view.h"

#include <errno.h>

#ifndef LOWTIDE_NO_PAGE /* what was missing when it was built, and how to get it */
#define LOWTIDE_NO_PAGE "nothing was missing: run cmake"
#endif

/* web/src/data.ts says what the page reads. */
int report_html(const report_t *r, FILE *file, err_t *e) {
    html_page_t page;
    json_t j;
    int status;
    if (!html_page_get(&page))
        return err_set(e, -ENOSYS,
                       "this lowtide was built without its page, as " LOWTIDE_NO_PAGE
                       " and build again, or use --json");
    fwrite(page.before, 1, page.before_bytes, file);
    json_init(&j, file);
    j.in_html = j.compact = true;
    json_open(&j, NULL, '{');
    report_json_object(r, &j, "report");
    if (!(status = html_tree(r->profile, &j, e)) && !(status = html_moments(r->profile, &j, e))) {
        html_events(r->profile, &j);
        json_close(&j);
    }
    fwrite(page.after, 1, page.after_bytes, file);
    return status;
}
