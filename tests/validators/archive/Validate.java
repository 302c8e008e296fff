import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.verapdf.gf.foundry.VeraGreenfieldFoundryProvider;
import org.verapdf.pdfa.Foundries;
import org.verapdf.pdfa.PDFAParser;
import org.verapdf.pdfa.PDFAValidator;
import org.verapdf.pdfa.flavours.PDFAFlavour;
import org.verapdf.pdfa.results.ValidationResult;

/** Puts every PDF of a directory before veraPDF; ends with 1 if it minds any. */
public final class Validate {
    private static final List<PDFAFlavour> FLAVOURS = List.of(PDFAFlavour.PDFA_3_B, PDFAFlavour.PDFUA_1);
    private final TreeMap<String, Integer> passed = new TreeMap<>();
    private final List<String> wrong = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        VeraGreenfieldFoundryProvider.initialise();
        Validate validate = new Validate();
        List<Path> files;
        try (Stream<Path> found = Files.list(Path.of(arguments[0]))) {
            files = found.filter(file -> file.toString().endsWith(".pdf")).sorted().toList();
        }
        for (Path file : files) {
            validate.archive(file);
        }
        validate.passed.forEach((validator, count) -> System.out.println(validator + ": " + count + " passed"));
        validate.wrong.forEach(System.out::println);
        if (validate.passed.isEmpty()) {
            System.out.println(arguments[0] + " holds no sample");
        }
        System.exit(validate.wrong.isEmpty() && !validate.passed.isEmpty() ? 0 : 1);
    }

    private void archive(Path file) throws Exception {
        // What screen readers cannot be given is an archive all the same.
        boolean archiveOnly = file.getFileName().toString().contains("archive-only");
        for (PDFAFlavour flavour : archiveOnly ? FLAVOURS.subList(0, 1) : FLAVOURS) {
            try (InputStream stream = Files.newInputStream(file);
                    PDFAParser parser = Foundries.defaultInstance().createParser(stream, flavour);
                    PDFAValidator validator = Foundries.defaultInstance().createValidator(flavour, false)) {
                ValidationResult result = validator.validate(parser);
                List<String> broken = new ArrayList<>();
                result.getFailedChecks().forEach((rule, count) ->
                        broken.add(rule.getClause() + "-" + rule.getTestNumber() + " (" + count + " times)"));
                told("veraPDF " + flavour.getId(), file, broken);
            }
        }
    }

    private void told(String validator, Path file, List<String> broken) {
        if (broken.isEmpty()) {
            passed.merge(validator, 1, Integer::sum);
        }
        broken.forEach(one -> wrong.add(file.getFileName() + ": " + validator + ": " + one));
    }
}
