"use strict";
// Shows the mesh of every <canvas data-model="ID">: drag to rotate, wheel or two fingers to zoom.
// The element with that id has a GLB file in base64, with one triangle mesh: positions, normals,
// indices, and either texture coordinates with a texture and possibly a normal map, or colours.
// A link <a data-model="ID"> downloads the file. With data-splats="ID", the canvas can also show
// Gaussian splats: a PLY file in base64, as the scene `gaussians` writes it.
(() => {
  const VERTEX = `#version 300 es
    in vec3 position, normal, color;
    in vec2 uv;
    uniform mat4 view, projection;
    out vec3 vNormal, vPosition, vColor;
    out vec2 vUv;
    void main() {
      vNormal = mat3(view) * normal;
      vColor = color;
      vUv = vec2(uv.x, 1.0 - uv.y); // v up
      vec4 seen = view * vec4(position, 1.0);
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
    uniform int look; // 0 lit, 1 albedo, 2 clay, 3 normals; 4, splats, has its own program
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
      vec3 albedo = textured ? texture(map, vUv).rgb : vColor;
      if (look == 2) albedo = vec3(0.6, 0.58, 0.55);
      float key = max(dot(n, normalize(vec3(-0.45, 0.65, 0.75))), 0.0);
      float fill = max(dot(n, normalize(vec3(0.8, -0.1, 0.5))), 0.0);
      float light = 0.34 + 0.12 * world.y + 0.62 * key + 0.12 * fill;
      result = vec4(pow(albedo * (look == 1 ? 1.0 : light), vec3(1.0 / 2.2)), 1.0);
    }`;
  // One square per splat, over 3.4 standard deviations of its image: beyond, less than 1/255 is left.
  const SPLAT_VERTEX = `#version 300 es
    in vec2 corner;
    in vec3 mean, variances, covariances; // xx, yy, zz; xy, xz, yz
    in vec4 color;
    uniform mat4 view, projection;
    uniform vec2 size; // pixels
    out vec2 vAt; // in standard deviations
    out vec4 vColor;
    void main() {
      vec3 v = variances, c = covariances, seen = (view * vec4(mean, 1.0)).xyz;
      mat3 sigma = mat3(v.x, c.x, c.y, c.x, v.y, c.z, c.y, c.z, v.z);
      vec2 f = vec2(projection[0][0], projection[1][1]) * size / 2.0 / -seen.z;
      // The derivative of the pixel by the position.
      mat3x2 j = mat3x2(f.x, 0.0, 0.0, f.y, -f * seen.xy / seen.z) * mat3(view);
      mat2 s = j * sigma * transpose(j);
      float middle = (s[0][0] + s[1][1]) / 2.0;
      float spread = length(vec2((s[0][0] - s[1][1]) / 2.0, s[0][1]));
      vec2 widths = sqrt(max(vec2(middle + spread, middle - spread), 0.1));
      vec2 along = vec2(s[0][1], middle + spread - s[0][0]);
      if (dot(along, along) < 1e-12) along = s[0][0] >= s[1][1] ? vec2(1, 0) : vec2(0, 1);
      along = normalize(along);
      vAt = 3.4 * corner;
      vColor = color;
      vec2 offset = vAt.x * widths.x * along + vAt.y * widths.y * vec2(-along.y, along.x);
      vec4 at = projection * vec4(seen, 1.0);
      gl_Position = at + vec4(2.0 * offset / size * at.w, 0.0, 0.0);
    }`;
  const SPLAT_FRAGMENT = `#version 300 es
    precision highp float;
    in vec2 vAt;
    in vec4 vColor;
    out vec4 result;
    void main() {
      float alpha = vColor.a * exp(-0.5 * dot(vAt, vAt));
      if (alpha < 1.0 / 255.0) discard;
      result = vec4(vColor.rgb, 1.0) * alpha;
    }`;
  const SPLATS = 4; // the look
  const FOV = 0.6, FRONT = { azimuth: 0.5, elevation: 0.3, zoom: 1 };

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  function compile(gl, vertex, fragment) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw Error(gl.getProgramInfoLog(program));
    return program;
  }

  // The mesh of a GLB file: a function that returns the numbers of an accessor and their format, the
  // primitive, its images, and the centre and the radius of its bounding sphere.
  function parse(glb) {
    const size = new DataView(glb.buffer, glb.byteOffset).getUint32(12, true);
    const tree = JSON.parse(new TextDecoder().decode(glb.subarray(20, 20 + size)));
    const view = (i, skip = 0) => {
      const { byteOffset = 0, byteLength } = tree.bufferViews[i];
      return glb.subarray(28 + size + byteOffset + skip, 28 + size + byteOffset + byteLength);
    };
    const read = (i) => {
      const accessor = tree.accessors[i];
      const data = view(accessor.bufferView, accessor.byteOffset);
      return { ...accessor, data, stride: tree.bufferViews[accessor.bufferView].byteStride || 0 };
    };
    const primitive = tree.meshes[0].primitives[0];
    const material = (tree.materials || [])[primitive.material] || {};
    const image = (info) => {
      if (!info) return undefined;
      const { bufferView, mimeType } = tree.images[tree.textures[info.index].source];
      return new Blob([view(bufferView)], { type: mimeType });
    };
    const { min, max, data } = read(primitive.attributes.POSITION);
    const target = min.map((low, i) => (low + max[i]) / 2), points = new Float32Array(data.slice().buffer);
    let radius = 0;
    for (let i = 0; i < points.length; i += 3)
      radius = Math.max(radius, Math.hypot(...target.map((middle, j) => points[i + j] - middle)));
    return {
      primitive, read,
      texture: image(material.pbrMetallicRoughness?.baseColorTexture),
      normalMap: image(material.normalTexture),
      target, radius: radius || 1,
    };
  }

  // Prepares a mesh, and returns the function that draws it.
  function upload(gl, model, redraw) {
    const program = compile(gl, VERTEX, FRAGMENT), array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const attribute = (name, index) => {
      const place = gl.getAttribLocation(program, name);
      if (place < 0) return;
      if (index === undefined) return gl.vertexAttrib3f(place, 0.58, 0.58, 0.58);
      const { data, type, componentType, normalized, stride } = model.read(index);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, Number(type[3]), componentType, Boolean(normalized), stride, 0);
    };
    const { attributes, indices } = model.primitive;
    attribute("position", attributes.POSITION);
    attribute("normal", attributes.NORMAL);
    attribute("uv", attributes.TEXCOORD_0);
    attribute("color", attributes.COLOR_0);
    const triangles = model.read(indices);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles.data, gl.STATIC_DRAW);
    const [colors, bumps] = [gl.SRGB8_ALPHA8, gl.RGBA8];
    for (const [unit, blob, format] of [[0, model.texture, colors], [1, model.normalMap, bumps]])
      if (blob) texture(gl, unit, blob, format).then(redraw);
    const at = (name) => gl.getUniformLocation(program, name);
    return (view, projection, look) => {
      gl.useProgram(program);
      gl.bindVertexArray(array);
      gl.enable(gl.DEPTH_TEST);
      gl.disable(gl.BLEND);
      gl.uniform1i(at("textured"), model.texture ? 1 : 0);
      gl.uniform1i(at("bumped"), model.normalMap ? 1 : 0);
      gl.uniform1i(at("normals"), 1);
      gl.uniformMatrix4fv(at("view"), false, view);
      gl.uniformMatrix4fv(at("projection"), false, projection);
      gl.uniform1i(at("look"), look);
      gl.drawElements(gl.TRIANGLES, triangles.count, triangles.componentType, 0);
    };
  }

  async function texture(gl, unit, blob, format) {
    const options = { imageOrientation: "flipY", colorSpaceConversion: "none" }; // v is up
    const image = await createImageBitmap(blob, options);
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, format, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameterf(gl.TEXTURE_2D, gl.TEXTURE_MAX_LOD, 2); // smaller levels mix neighbouring charts
    gl.generateMipmap(gl.TEXTURE_2D);
  }

  // The splats of a PLY file, +Y down, upright: rows of 13 numbers (position, variances, covariances,
  // colour, opacity), and the centre and the radius of a sphere around the opaque ones.
  function parseSplats(ply) {
    const end = "end_header\n", text = new TextDecoder("latin1").decode(ply.subarray(0, 4096));
    const header = text.slice(0, text.indexOf(end));
    const names = [...header.matchAll(/property float (\w+)/g)].map((found) => found[1]);
    const count = Number(/element vertex (\d+)/.exec(header)[1]);
    const start = header.length + end.length;
    const values = new Float32Array(ply.slice(start, start + 4 * names.length * count).buffer);
    const rows = new Float32Array(13 * count), low = [9, 9, 9], high = [-9, -9, -9];
    for (let i = 0; i < count; i++) {
      const of = Object.fromEntries(names.map((name, j) => [name, values[i * names.length + j]]));
      const [w, x, y, z] = [of.rot_0, of.rot_1, of.rot_2, of.rot_3];
      const axes = [ // the columns of the rotation, times the widths
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
      ].map((axis, j) => axis.map((part) => part * Math.exp(of[`scale_${j}`])));
      const covariance = (a, b) => axes.reduce((sum, axis) => sum + axis[a] * axis[b], 0);
      const color = [0, 1, 2].map((j) => Math.min(Math.max(0.5 + 0.28209479 * of[`f_dc_${j}`], 0), 1));
      const mean = [-of.x, -of.y, of.z], opacity = 1 / (1 + Math.exp(-of.opacity));
      rows.set([
        ...mean, covariance(0, 0), covariance(1, 1), covariance(2, 2),
        covariance(0, 1), -covariance(0, 2), -covariance(1, 2), ...color, opacity,
      ], 13 * i);
      if (opacity > 0.3) mean.forEach((at, j) => {
        [low[j], high[j]] = [Math.min(low[j], at), Math.max(high[j], at)];
      });
    }
    const target = low.map((from, j) => (from + high[j]) / 2);
    return { rows, count, target, radius: Math.hypot(...high.map((to, j) => to - target[j])) || 1 };
  }

  // Prepares splats, and returns the function that draws them, the farthest first.
  function uploadSplats(gl, { rows, count }) {
    const program = compile(gl, SPLAT_VERTEX, SPLAT_FRAGMENT), array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const attribute = (name, size, stride, offset) => {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, 4 * stride, 4 * offset);
      gl.vertexAttribDivisor(place, name === "corner" ? 0 : 1);
    };
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    attribute("corner", 2, 2, 0);
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    attribute("mean", 3, 13, 0);
    attribute("variances", 3, 13, 3);
    attribute("covariances", 3, 13, 6);
    attribute("color", 4, 13, 9);
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    const depth = new Float32Array(count), sorted = new Float32Array(rows.length);
    return (view, projection) => {
      for (let i = 0; i < count; i++)
        depth[i] = view[2] * rows[13 * i] + view[6] * rows[13 * i + 1] + view[10] * rows[13 * i + 2];
      order.sort((a, b) => depth[a] - depth[b]);
      order.forEach((from, to) => sorted.set(rows.subarray(13 * from, 13 * from + 13), 13 * to));
      gl.useProgram(program);
      gl.bindVertexArray(array);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, sorted, gl.STREAM_DRAW);
      gl.disable(gl.DEPTH_TEST);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, view);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "projection"), false, projection);
      gl.uniform2f(gl.getUniformLocation(program, "size"), gl.drawingBufferWidth, gl.drawingBufferHeight);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    };
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

  // Shows a GLB file, and splats if there are any, on a canvas. Returns the camera, which the next one
  // can start from.
  function show(canvas, glb, camera = { ...FRONT, look: 0 }, ply = undefined) {
    const model = parse(glb), splats = ply && parseSplats(ply);
    const gl = canvas.getContext("webgl2", { antialias: true });
    if (!gl) throw Error("this browser has no WebGL 2");
    if (!splats && camera.look === SPLATS) camera.look = 0;
    let drawMesh, drawSplats, pending = false;

    const draw = () => {
      pending = false;
      const scale = Math.min(devicePixelRatio, 2);
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const asSplats = camera.look === SPLATS, { radius, target } = asSplats ? splats : model;
      const distance = 1.2 * radius / Math.sin(FOV / 2) / camera.zoom;
      const near = Math.max(distance - 1.1 * radius, distance / 100);
      const aspect = canvas.width / canvas.height;
      (asSplats ? drawSplats : drawMesh)(viewMatrix(camera, target, distance),
        projectionMatrix(aspect, near, distance + 1.1 * radius), camera.look);
    };
    const redraw = () => {
      if (!pending && !gl.isContextLost()) requestAnimationFrame(draw);
      pending = true;
    };
    const prepare = () => {
      drawMesh = upload(gl, model, redraw);
      drawSplats = splats && uploadSplats(gl, splats);
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
      const id = canvas.dataset.model, glb = bytes(document.getElementById(id).textContent);
      document.querySelector(`a[data-model="${id}"]`).href = URL.createObjectURL(new Blob([glb]));
      const splats = canvas.dataset.splats;
      show(canvas, glb, undefined, splats && bytes(document.getElementById(splats).textContent));
    } catch (error) {
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = `The mesh cannot be shown: ${error.message}`;
      canvas.parentElement.replaceChildren(note);
    }
  }
})();
