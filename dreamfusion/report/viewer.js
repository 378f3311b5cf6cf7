"use strict";
// Shows the mesh of every <canvas data-model="ID">: drag to rotate, wheel or two fingers to zoom.
// The element with that id has JSON: base64 arrays of positions (uint16, scaled by low and span),
// normals (int8), indices, and either uv (uint16, v up) with a texture and possibly a normal map, or
// colors (uint8, sRGB).
(() => {
  const VERTEX = `#version 300 es
    in vec3 position, normal, color;
    in vec2 uv;
    uniform mat4 view, projection;
    uniform vec3 low, span;
    uniform vec2 uvLow, uvSpan;
    out vec3 vNormal, vPosition, vColor;
    out vec2 vUv;
    void main() {
      vNormal = mat3(view) * normal;
      vColor = color;
      vUv = uvLow + uvSpan * uv;
      vec4 seen = view * vec4(low + span * position, 1.0);
      vPosition = seen.xyz;
      gl_Position = projection * seen;
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 vNormal, vPosition, vColor;
    in vec2 vUv;
    uniform mat4 view;
    uniform sampler2D map, normals;
    uniform bool textured, bumped;
    uniform int look; // 0 lit, 1 albedo, 2 clay, 3 normals
    out vec4 result;
    // The normal of the normal map: along increasing u, increasing v and the normal n.
    vec3 detailed(vec3 n) {
      vec3 dx = dFdx(vPosition), dy = dFdy(vPosition);
      vec2 ux = dFdx(vUv), uy = dFdy(vUv);
      float facing = sign(ux.x * uy.y - uy.x * ux.y);
      vec3 t = facing * (dx * uy.y - dy * ux.y), b = facing * (dy * ux.x - dx * uy.x);
      t = normalize(t - n * dot(n, t));
      b = normalize(b - n * dot(n, b) - t * dot(t, b));
      vec3 m = texture(normals, vUv).rgb * 2.0 - 1.0;
      return normalize(t * m.x + b * m.y + n * m.z);
    }
    void main() {
      vec3 n = normalize(vNormal);
      if (bumped) n = detailed(n);
      n *= gl_FrontFacing ? 1.0 : -1.0;
      vec3 world = transpose(mat3(view)) * n;
      if (look == 3) { result = vec4(0.5 + 0.5 * world, 1.0); return; }
      vec3 albedo = textured ? texture(map, vUv).rgb : pow(vColor, vec3(2.2));
      if (look == 2) albedo = vec3(0.6, 0.58, 0.55);
      float key = max(dot(n, normalize(vec3(-0.45, 0.65, 0.75))), 0.0);
      float fill = max(dot(n, normalize(vec3(0.8, -0.1, 0.5))), 0.0);
      float light = 0.34 + 0.12 * world.y + 0.62 * key + 0.12 * fill;
      result = vec4(pow(albedo * (look == 1 ? 1.0 : light), vec3(1.0 / 2.2)), 1.0);
    }`;
  const FOV = 0.6, FRONT = { azimuth: 0.5, elevation: 0.3, zoom: 1 };

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  function compile(gl) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw Error(gl.getProgramInfoLog(program));
    return program;
  }

  function upload(gl, program, model, redraw) {
    const attribute = (name, data, size, type) => {
      const place = gl.getAttribLocation(program, name);
      if (place < 0 || !data) return;
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, bytes(data), gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, true, 0, 0);
    };
    attribute("position", model.positions, 3, gl.UNSIGNED_SHORT);
    attribute("normal", model.normals, 3, gl.BYTE);
    attribute("uv", model.uv, 2, gl.UNSIGNED_SHORT);
    attribute("color", model.colors, 3, gl.UNSIGNED_BYTE);
    const indices = bytes(model.indices);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    const [colors, bumps] = [gl.SRGB8_ALPHA8, gl.RGBA8];
    for (const [unit, data, format] of [[0, model.texture, colors], [1, model.normalMap, bumps]])
      if (data) texture(gl, unit, data, format, redraw);
    return indices.length;
  }

  function texture(gl, unit, data, format, redraw) {
    const image = new Image();
    image.onload = () => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true); // v is up, images have their top row first
      gl.texImage2D(gl.TEXTURE_2D, 0, format, gl.RGBA, gl.UNSIGNED_BYTE, image);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
      gl.texParameterf(gl.TEXTURE_2D, gl.TEXTURE_MAX_LOD, 2); // smaller levels mix neighbouring charts
      gl.generateMipmap(gl.TEXTURE_2D);
      redraw();
    };
    image.src = data;
  }

  // Matrices are column-major, as in WebGL. The camera looks at `target` from `distance`.
  function viewMatrix({ azimuth, elevation }, target, distance) {
    const [sa, ca, se, ce] = [azimuth, elevation].flatMap((a) => [Math.sin(a), Math.cos(a)]);
    const x = [ca, 0, -sa], y = [-sa * se, ce, -ca * se], z = [sa * ce, se, ca * ce];
    const along = (axis) => -(axis[0] * target[0] + axis[1] * target[1] + axis[2] * target[2]);
    return [
      x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0,
      along(x), along(y), along(z) - distance, 1,
    ];
  }

  function projectionMatrix(aspect, near, far) {
    const f = 1 / Math.tan(FOV / 2) * Math.min(1, aspect), depth = near - far;
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / depth, -1, 0, 0, 2 * far * near / depth, 0];
  }

  // Shows a model on a canvas, and returns the camera, which the next model can start from.
  function show(canvas, model, camera = { ...FRONT, look: 0 }) {
    const gl = canvas.getContext("webgl2", { antialias: true });
    if (!gl) throw Error("this browser has no WebGL 2");
    const radius = model.radius || 1;
    const target = model.low.map((low, i) => low + model.span[i] / 2);
    let program, length, pending = false;

    const draw = () => {
      pending = false;
      const scale = Math.min(devicePixelRatio, 2);
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const at = (name) => gl.getUniformLocation(program, name);
      const distance = 1.2 * radius / Math.sin(FOV / 2) / camera.zoom;
      const near = Math.max(distance - 1.1 * radius, distance / 100);
      gl.uniformMatrix4fv(at("view"), false, viewMatrix(camera, target, distance));
      gl.uniformMatrix4fv(at("projection"), false,
        projectionMatrix(canvas.width / canvas.height, near, distance + 1.1 * radius));
      gl.uniform1i(at("look"), camera.look);
      gl.drawElements(gl.TRIANGLES, length / (model.wide ? 4 : 2),
        model.wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
    };
    const redraw = () => {
      if (!pending && !gl.isContextLost()) requestAnimationFrame(draw);
      pending = true;
    };
    const prepare = () => {
      program = compile(gl);
      gl.useProgram(program);
      length = upload(gl, program, model, redraw);
      gl.enable(gl.DEPTH_TEST);
      gl.uniform3fv(gl.getUniformLocation(program, "low"), model.low);
      gl.uniform3fv(gl.getUniformLocation(program, "span"), model.span);
      gl.uniform2fv(gl.getUniformLocation(program, "uvLow"), model.uvLow || [0, 0]);
      gl.uniform2fv(gl.getUniformLocation(program, "uvSpan"), model.uvSpan || [1, 1]);
      gl.uniform1i(gl.getUniformLocation(program, "textured"), model.texture ? 1 : 0);
      gl.uniform1i(gl.getUniformLocation(program, "bumped"), model.normalMap ? 1 : 0);
      gl.uniform1i(gl.getUniformLocation(program, "normals"), 1);
      pending = false;
      redraw();
    };
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", prepare);
    new ResizeObserver(redraw).observe(canvas);
    listen(canvas, camera, redraw);
    prepare();
    return camera;
  }
  window.showModel = show;

  function listen(canvas, camera, redraw) {
    const fingers = new Map();
    const turn = (x, y) => {
      camera.azimuth -= x;
      camera.elevation = Math.max(-1.57, Math.min(1.57, camera.elevation + y));
      redraw();
    };
    const zoom = (factor) => {
      camera.zoom = Math.max(0.3, Math.min(8, camera.zoom * factor));
      redraw();
    };
    const spread = () => {
      const [a, b] = fingers.values();
      return Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? spread() : 0;
      const [x, y] = [event.clientX - last.x, event.clientY - last.y];
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (before) zoom(spread() / before);
      else turn(x / 120, y / 120);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.04 : 0.0015)));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => redraw(Object.assign(camera, FRONT)));
    const keys = {
      ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0),
      ArrowUp: () => turn(0, 0.1), ArrowDown: () => turn(0, -0.1),
      "+": () => zoom(1.1), "-": () => zoom(1 / 1.1),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    const buttons = canvas.closest(".viewer").querySelectorAll("button[data-look]");
    for (const button of buttons) button.addEventListener("click", () => {
      camera.look = Number(button.dataset.look);
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      redraw();
    });
  }

  for (const canvas of document.querySelectorAll("canvas[data-model]")) {
    try {
      show(canvas, JSON.parse(document.getElementById(canvas.dataset.model).textContent));
    } catch (error) {
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = `The mesh cannot be shown: ${error.message}`;
      canvas.parentElement.replaceChildren(note);
    }
  }
})();
