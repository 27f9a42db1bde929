// Shows openapi.json with Swagger UI, in the colours that the person's system has.

const dark = matchMedia("(prefers-color-scheme: dark)");
const followColours = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followColours);
followColours();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  // Swagger UI would send the document to a validator on the internet.
  validatorUrl: null,
});
