//! A program of OpenGL ES, by EGL of Mesa without a display: it samples and draws an image of another process.
//!
//! `EGL_EXT_image_dma_buf_import_modifiers`, `EGL_MESA_platform_surfaceless`, `GL_OES_EGL_image`. Mesa may end the process,
//! so this is for processes of its own.
#![expect(unsafe_code, reason = "C functions of EGL and OpenGL ES")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;

const EGL_NONE: isize = 0x3038;
const EGL_HEIGHT: isize = 0x3056;
const EGL_WIDTH: isize = 0x3057;
const EGL_CONTEXT_MAJOR_VERSION: c_int = 0x3098;
const EGL_OPENGL_ES_API: c_uint = 0x30a0;
const EGL_PLATFORM_SURFACELESS_MESA: c_uint = 0x31dd;
const EGL_LINUX_DMA_BUF_EXT: c_uint = 0x3270;
const EGL_LINUX_DRM_FOURCC_EXT: isize = 0x3271;
const EGL_DMA_BUF_PLANE0_FD_EXT: isize = 0x3272;
const EGL_DMA_BUF_PLANE0_OFFSET_EXT: isize = 0x3273;
const EGL_DMA_BUF_PLANE0_PITCH_EXT: isize = 0x3274;
const EGL_DMA_BUF_PLANE0_MODIFIER_LO_EXT: isize = 0x3443;
const EGL_DMA_BUF_PLANE0_MODIFIER_HI_EXT: isize = 0x3444;

const GL_TRIANGLES: c_uint = 4;
const GL_TEXTURE_2D: c_uint = 0x0de1;
const GL_UNSIGNED_BYTE: c_uint = 0x1401;
const GL_RGBA: c_uint = 0x1908;
const GL_RENDERER: c_uint = 0x1f01;
const GL_NEAREST: c_int = 0x2600;
const GL_TEXTURE_MAG_FILTER: c_uint = 0x2800;
const GL_TEXTURE_MIN_FILTER: c_uint = 0x2801;
const GL_RGBA8: c_uint = 0x8058;
const GL_FRAGMENT_SHADER: c_uint = 0x8b30;
const GL_VERTEX_SHADER: c_uint = 0x8b31;
const GL_LINK_STATUS: c_uint = 0x8b82;
const GL_FRAMEBUFFER_COMPLETE: c_uint = 0x8cd5;
const GL_COLOR_ATTACHMENT0: c_uint = 0x8ce0;
const GL_FRAMEBUFFER: c_uint = 0x8d40;

/// One triangle over all texels.
const VERTEX: &CStr = c"#version 300 es
void main() {
    vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
    gl_Position = vec4(corner, 0.0, 1.0);
}";

/// Each texel is that of another image at the same place.
const FRAGMENT: &CStr = c"#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D source;
out vec4 color;
void main() { color = texelFetch(source, ivec2(gl_FragCoord.xy), 0); }";

/// Where an image of another process is.
#[derive(Clone, Copy)]
pub(crate) struct Described<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) fourcc: u32,
    pub(crate) size: (u32, u32),
    pub(crate) offset: u64,
    pub(crate) pitch: u32,
    pub(crate) modifier: u64,
}

/// A context of OpenGL ES 3 that is current, with the program that copies an image.
pub(crate) struct Gles {
    get: extern "C" fn(*const c_char) -> *const c_void,
    display: *const c_void,
}

/// A function of EGL or OpenGL ES, with the types of its arguments. It is safe to call here: this module passes live objects
/// of the current context, and addresses of as much as the function reads or writes.
macro_rules! function {
    ($gles:expr, $name:literal, fn($($argument:ty),*) $(-> $result:ty)?) => {{
        let name = CString::new($name).expect("a name");
        let found = ($gles.get)(name.as_ptr());
        assert!(!found.is_null(), "there is no {}", $name);
        // SAFETY: EGL and OpenGL ES define it with these types.
        unsafe {
            std::mem::transmute::<*const c_void, extern "C" fn($($argument),*) $(-> $result)?>(found)
        }
    }};
}

impl Gles {
    /// `None` if the machine has no EGL, or Mesa's has no renderer without a display.
    pub(crate) fn open() -> Option<Self> {
        // SAFETY: a name; what the library does as it is loaded is Mesa's business.
        let library = unsafe { dlopen(c"libEGL.so.1".as_ptr(), RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        // SAFETY: a library that was loaded, and a name.
        let get = unsafe { dlsym(library, c"eglGetProcAddress".as_ptr()) };
        assert!(!get.is_null(), "a library of EGL");
        // SAFETY: EGL defines it with these types.
        let get = unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> *const c_void>(get)
        };
        let mut this = Self { get, display: null() };
        let get_display = function!(
            this,
            "eglGetPlatformDisplay",
            fn(c_uint, *const c_void, *const isize) -> *const c_void
        );
        this.display = get_display(EGL_PLATFORM_SURFACELESS_MESA, null(), null());
        let initialize =
            function!(this, "eglInitialize", fn(*const c_void, *mut c_int, *mut c_int) -> c_uint);
        let (mut major, mut minor) = (0, 0);
        if initialize(this.display, &raw mut major, &raw mut minor) == 0 {
            return None;
        }
        this.make_context();
        Some(this)
    }

    fn make_context(&self) {
        let bind = function!(self, "eglBindAPI", fn(c_uint) -> c_uint);
        let create = function!(
            self,
            "eglCreateContext",
            fn(*const c_void, *const c_void, *const c_void, *const c_int) -> *const c_void
        );
        let make_current = function!(
            self,
            "eglMakeCurrent",
            fn(*const c_void, *const c_void, *const c_void, *const c_void) -> c_uint
        );
        // CAST: below 32 bits.
        let attributes = [EGL_CONTEXT_MAJOR_VERSION, 3, EGL_NONE as c_int];
        bind(EGL_OPENGL_ES_API);
        let context = create(self.display, null(), null(), attributes.as_ptr());
        let made = make_current(self.display, null(), null(), context);
        assert_eq!(made, 1, "a context without a surface: {}", self.error());
    }

    /// What draws.
    pub(crate) fn renderer(&self) -> String {
        let get = function!(self, "glGetString", fn(c_uint) -> *const c_char);
        // SAFETY: a string, which lives as long as the context.
        unsafe { CStr::from_ptr(get(GL_RENDERER)) }.to_string_lossy().into_owned()
    }

    fn error(&self) -> String {
        let egl = function!(self, "eglGetError", fn() -> c_int);
        format!("EGL says {:#x}", egl())
    }

    fn assert_no_error(&self, what: &str) {
        let get = function!(self, "glGetError", fn() -> c_uint);
        assert_eq!(get(), 0, "{what}: {}", self.error());
    }

    fn texture(&self) -> c_uint {
        let generate = function!(self, "glGenTextures", fn(c_int, *mut c_uint));
        let bind = function!(self, "glBindTexture", fn(c_uint, c_uint));
        let set = function!(self, "glTexParameteri", fn(c_uint, c_uint, c_int));
        let mut texture = 0;
        generate(1, &raw mut texture);
        bind(GL_TEXTURE_2D, texture);
        set(GL_TEXTURE_2D, GL_TEXTURE_MIN_FILTER, GL_NEAREST);
        set(GL_TEXTURE_2D, GL_TEXTURE_MAG_FILTER, GL_NEAREST);
        texture
    }

    /// A texture over an image of another process.
    pub(crate) fn import(&self, image: Described<'_>) -> c_uint {
        let create = function!(
            self,
            "eglCreateImage",
            fn(*const c_void, *const c_void, c_uint, *const c_void, *const isize) -> *const c_void
        );
        let target = function!(self, "glEGLImageTargetTexture2DOES", fn(c_uint, *const c_void));
        // CAST: small numbers, and halves of one.
        let attributes = [
            (EGL_WIDTH, image.size.0 as isize),
            (EGL_HEIGHT, image.size.1 as isize),
            (EGL_LINUX_DRM_FOURCC_EXT, image.fourcc as isize),
            (EGL_DMA_BUF_PLANE0_FD_EXT, image.fd.as_raw_fd() as isize),
            (EGL_DMA_BUF_PLANE0_OFFSET_EXT, image.offset as isize),
            (EGL_DMA_BUF_PLANE0_PITCH_EXT, image.pitch as isize),
            (EGL_DMA_BUF_PLANE0_MODIFIER_LO_EXT, (image.modifier & 0xffff_ffff) as isize),
            (EGL_DMA_BUF_PLANE0_MODIFIER_HI_EXT, (image.modifier >> 32) as isize),
        ];
        let mut list: Vec<_> = attributes.into_iter().flat_map(|(name, of)| [name, of]).collect();
        list.push(EGL_NONE);
        let made = create(self.display, null(), EGL_LINUX_DMA_BUF_EXT, null(), list.as_ptr());
        assert!(!made.is_null(), "it is imported: {}", self.error());
        let texture = self.texture();
        target(GL_TEXTURE_2D, made);
        self.assert_no_error("a texture over the image");
        texture
    }

    /// A texture of this process, with texels of four bytes.
    pub(crate) fn own(&self, (width, height): (u32, u32), texels: &[u8]) -> c_uint {
        assert_eq!(texels.len(), 4 * width as usize * height as usize);
        let storage = function!(self, "glTexStorage2D", fn(c_uint, c_int, c_uint, c_int, c_int));
        let upload = function!(
            self,
            "glTexSubImage2D",
            fn(c_uint, c_int, c_int, c_int, c_int, c_int, c_uint, c_uint, *const u8)
        );
        let texture = self.texture();
        // CAST: small.
        let (width, height) = (width as c_int, height as c_int);
        storage(GL_TEXTURE_2D, 1, GL_RGBA8, width, height);
        let (format, kind) = (GL_RGBA, GL_UNSIGNED_BYTE);
        upload(GL_TEXTURE_2D, 0, 0, 0, width, height, format, kind, texels.as_ptr());
        self.assert_no_error("a texture with texels");
        texture
    }

    /// Draws a texture into another one by sampling each texel, and returns what that has then.
    pub(crate) fn draw(&self, from: c_uint, to: c_uint, (width, height): (u32, u32)) -> Vec<u8> {
        let generate = function!(self, "glGenFramebuffers", fn(c_int, *mut c_uint));
        let bind_to = function!(self, "glBindFramebuffer", fn(c_uint, c_uint));
        let attach =
            function!(self, "glFramebufferTexture2D", fn(c_uint, c_uint, c_uint, c_uint, c_int));
        let check = function!(self, "glCheckFramebufferStatus", fn(c_uint) -> c_uint);
        let viewport = function!(self, "glViewport", fn(c_int, c_int, c_int, c_int));
        let use_program = function!(self, "glUseProgram", fn(c_uint));
        let bind = function!(self, "glBindTexture", fn(c_uint, c_uint));
        let draw = function!(self, "glDrawArrays", fn(c_uint, c_int, c_int));
        let finish = function!(self, "glFinish", fn());
        let read = function!(
            self,
            "glReadPixels",
            fn(c_int, c_int, c_int, c_int, c_uint, c_uint, *mut u8)
        );
        let program = self.program();
        let mut framebuffer = 0;
        let mut texels = vec![0; 4 * width as usize * height as usize];
        // CAST: small.
        let (width, height) = (width as c_int, height as c_int);
        generate(1, &raw mut framebuffer);
        bind_to(GL_FRAMEBUFFER, framebuffer);
        attach(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, to, 0);
        assert_eq!(check(GL_FRAMEBUFFER), GL_FRAMEBUFFER_COMPLETE, "it can be drawn into");
        viewport(0, 0, width, height);
        use_program(program);
        bind(GL_TEXTURE_2D, from);
        draw(GL_TRIANGLES, 0, 3);
        read(0, 0, width, height, GL_RGBA, GL_UNSIGNED_BYTE, texels.as_mut_ptr());
        finish();
        self.assert_no_error("drawn");
        texels
    }

    fn program(&self) -> c_uint {
        let create = function!(self, "glCreateProgram", fn() -> c_uint);
        let attach = function!(self, "glAttachShader", fn(c_uint, c_uint));
        let link = function!(self, "glLinkProgram", fn(c_uint));
        let get = function!(self, "glGetProgramiv", fn(c_uint, c_uint, *mut c_int));
        let new_shader = function!(self, "glCreateShader", fn(c_uint) -> c_uint);
        let source = function!(
            self,
            "glShaderSource",
            fn(c_uint, c_int, *const *const c_char, *const c_int)
        );
        let compile = function!(self, "glCompileShader", fn(c_uint));
        let mut linked = 0;
        let program = create();
        for (kind, text) in [(GL_VERTEX_SHADER, VERTEX), (GL_FRAGMENT_SHADER, FRAGMENT)] {
            let shader = new_shader(kind);
            let text = text.as_ptr();
            source(shader, 1, &raw const text, null());
            compile(shader);
            attach(program, shader);
        }
        link(program);
        get(program, GL_LINK_STATUS, &raw mut linked);
        assert_eq!(linked, 1, "both shaders are valid");
        program
    }
}
