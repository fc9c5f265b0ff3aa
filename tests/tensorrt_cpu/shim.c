/* The nine C functions that TensorRT's Python bindings look for, handed on to the libraries of TensorRT for RTX, whose
 * builder and ONNX parser work on a machine with no GPU. The caller's version number is replaced by the library's own.
 *
 * Without RTX_BUILDER in the environment they only are there, so that bindings of any version can be imported and
 * looked at; calling one gives a null pointer.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

static void *find(const char *variable, const char *name) {
    const char *path = getenv(variable);
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
    return library ? dlsym(library, name) : NULL;
}

static void *builder(const char *name) { return find("RTX_BUILDER", name); }

static void *parser(const char *name) {
    builder("getInferLibVersion"); /* loads what the parser is linked against */
    return find("RTX_PARSER", name);
}

static int number(void *function) { return function ? ((int (*)(void))function)() : 0; }
static int builder_version(void) { return number(builder("getInferLibVersion")); }
int getNvOnnxParserVersion(void) { return number(parser("getNvOnnxParserVersion")); }

#define MAKE(NAME, FROM, ARGUMENTS, TYPES, VALUES)                \
    void *NAME ARGUMENTS {                                                 \
        void *found = FROM(#NAME);                                         \
        return found ? ((void *(*)TYPES)found)VALUES : NULL;               \
    }

MAKE(createInferBuilder_INTERNAL, builder, (void *log, int asked), (void *, int), (log, builder_version()))
MAKE(createInferRuntime_INTERNAL, builder, (void *log, int asked), (void *, int), (log, builder_version()))
MAKE(createInferRefitter_INTERNAL, builder, (void *engine, void *log, int asked), (void *, void *, int),
     (engine, log, builder_version()))
MAKE(createNvOnnxParser_INTERNAL, parser, (void *network, void *log, int asked), (void *, void *, int),
     (network, log, getNvOnnxParserVersion()))
MAKE(createNvOnnxParserRefitter_INTERNAL, parser, (void *refitter, void *log, int asked), (void *, void *, int),
     (refitter, log, getNvOnnxParserVersion()))
MAKE(getBuilderPluginRegistry, builder, (int capability), (int), (capability))
MAKE(getPluginRegistry, builder, (void), (void), ())

int initLibNvInferPlugins(void *log, const char *space) { return 1; }
