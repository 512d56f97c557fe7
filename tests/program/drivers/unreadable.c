/* A Vulkan layer under which one device does not list its extensions: the device whose name begins with
 * PEERBUF_TEST_UNREADABLE. Structures are as in vulkan_core.h and vk_layer.h. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int32_t VkResult;
typedef void (*Function)(void);
typedef Function (*GetInstanceProc)(void *, const char *);
typedef VkResult (*CreateInstance)(const void *, const void *, void **);
typedef void (*GetProperties)(void *, void *);
typedef VkResult (*ListExtensions)(void *, const char *, uint32_t *, void *);

/* VkLayerInstanceLink and VkLayerInstanceCreateInfo */
struct Link { struct Link *next; GetInstanceProc get; Function get_physical; };
struct CreateInfo { int32_t type; const struct CreateInfo *next; int32_t function; struct Link *link; };

enum { LOADER_INSTANCE_CREATE_INFO = 47, LINK_INFO = 0, FAILED = -3 };
/* In VkPhysicalDeviceProperties, whose size is 824. */
enum { NAME = 20 };

static GetInstanceProc next_get;
static GetProperties next_properties;
static ListExtensions next_list;

static VkResult list(void *device, const char *layer, uint32_t *count, void *out) {
    const char *name = getenv("PEERBUF_TEST_UNREADABLE");
    char properties[1024];
    next_properties(device, properties);
    if (name && !strncmp(properties + NAME, name, strlen(name))) return FAILED;
    return next_list(device, layer, count, out);
}

static VkResult create(const void *info, const void *allocator, void **out) {
    struct CreateInfo *chain = *(struct CreateInfo **)((char *)info + 8);
    while (chain && !(chain->type == LOADER_INSTANCE_CREATE_INFO && chain->function == LINK_INFO))
        chain = (struct CreateInfo *)chain->next;
    if (!chain) return FAILED;
    next_get = chain->link->get;
    chain->link = chain->link->next;
    VkResult result = ((CreateInstance)next_get(NULL, "vkCreateInstance"))(info, allocator, out);
    if (result) return result;
    /* Later the loader answers with the first function of the chain, which is this layer's. */
    next_properties = (GetProperties)next_get(*out, "vkGetPhysicalDeviceProperties");
    next_list = (ListExtensions)next_get(*out, "vkEnumerateDeviceExtensionProperties");
    return 0;
}

/* Not the exported function itself, which the dynamic linker would bind to the loader's of the same name. */
static Function get(void *of, const char *name) {
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (Function)get;
    if (!strcmp(name, "vkCreateInstance")) return (Function)create;
    if (!strcmp(name, "vkEnumerateDeviceExtensionProperties")) return (Function)list;
    return next_get ? next_get(of, name) : NULL;
}

__attribute__((visibility("default"))) Function vkGetInstanceProcAddr(void *of, const char *name) {
    return get(of, name);
}
